"""Which images of a scene are used, and reading them at working size."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from chorus_core.rendering import View
from training.datasets.base import DatasetError, PosedImage


@dataclass(frozen=True)
class LoadedView:
    """An image in memory at working size.

    Attributes:
        name: of the image.
        view: its camera.
        color: sRGB, uint8 [H, W, 3].
        depth: z-depth, metres, float32 [H, W], 0 = none; None without.
    """

    name: str
    view: View
    color: np.ndarray
    depth: np.ndarray | None


def select_views(images: Sequence[PosedImage], every: int = 1, at_most: int = 0) -> list[PosedImage]:
    """Every n-th image, of these at most so many, evenly spread; 0 = all. Others are not touched."""
    places = np.arange(0, len(images), every)
    if at_most and len(places) > at_most:
        places = places[np.linspace(0, len(places) - 1, at_most).round().astype(int)]
    return [images[int(place)] for place in places]


def load_view(image: PosedImage, max_width: int = 0, depth: bool = False) -> LoadedView:
    """Read an image; wider ones are resized (colour by area, depth by nearest neighbour).

    Raises:
        DatasetError: the pixels read do not fit the intrinsics or are of another type.
    """
    k = image.intrinsics
    color = image.color()
    if color.dtype != np.uint8 or color.shape != (k.height, k.width, 3):
        raise DatasetError(
            f"{image.name}: color is {color.dtype} {color.shape}: expected uint8 {(k.height, k.width, 3)}"
        )
    metres = image.depth() if depth and image.depth is not None else None
    if metres is not None and metres.shape != (k.height, k.width):
        raise DatasetError(f"{image.name}: depth of shape {metres.shape}: expected {(k.height, k.width)}")
    if max_width and k.width > max_width:
        size = (max_width, max(1, round(k.height * max_width / k.width)))
        k = k.scaled(*size)
        color = cv2.resize(color, size, interpolation=cv2.INTER_AREA)
        metres = None if metres is None else cv2.resize(metres, size, interpolation=cv2.INTER_NEAREST)
    return LoadedView(image.name, View(k, image.world_from_camera), np.ascontiguousarray(color), metres)


def load_views(
    images: Iterable[PosedImage], max_width: int = 0, depth: bool = False, ahead: int = 4
) -> Iterator[LoadedView]:
    """Read images in order; a few are decoded ahead while the caller computes.

    One thread does all the reading, as readers of recordings are not made for several.
    """
    pending = iter(images)

    def read_next() -> LoadedView | None:
        image = next(pending, None)
        return None if image is None else load_view(image, max_width, depth)

    with ThreadPoolExecutor(1) as reader:
        waiting: deque[Future[LoadedView | None]] = deque(reader.submit(read_next) for _ in range(ahead))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(reader.submit(read_next))
                yield item
        finally:
            for future in waiting:
                future.cancel()
