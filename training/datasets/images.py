"""Posed images that stay on disk until somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import overload

import cv2
import numpy as np

from chorus_core.frames import FrameError, RgbdFrame, check_rigid
from chorus_core.io.images import ImageError, color_to_rgb, depth_to_metres
from chorus_core.io.sequence import RgbdSequence
from chorus_core.io.sequence import read_image as read_file
from training.datasets.base import DatasetError, PosedImage

MILLIMETRES = 1000.0
CV_FROM_GL = np.diag([1.0, -1.0, -1.0, 1.0])
"""Camera axes: OpenGL's (x right, y up, z back) to OpenCV's (x right, y down, z forward), and back."""


class LazyImages(Sequence[PosedImage]):
    """Images whose poses and cameras are read when first asked for, so that listing a data set stays cheap.

    Args:
        read: makes the list; a ``functools.partial`` of a module's function keeps the whole picklable.
    """

    def __init__(self, read: Callable[[], Sequence[PosedImage]]) -> None:
        self._read = read
        self._images: Sequence[PosedImage] | None = None

    def _list(self) -> Sequence[PosedImage]:
        if self._images is None:
            self._images = self._read()
        return self._images

    def __len__(self) -> int:
        return len(self._list())

    @overload
    def __getitem__(self, index: int) -> PosedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PosedImage]: ...
    def __getitem__(self, index):
        return self._list()[index]

    def __getstate__(self) -> dict:
        return {"_read": self._read, "_images": None}


class SequenceImages(Sequence[PosedImage]):
    """Frames of an RGB-D recording as posed images.

    A recording knows a frame's camera only once the frame is read, so indexing reads it. The last one is kept: going
    through the images in order decodes each once, and a list of them holds no pixels.

    Args:
        sequence: the recording.
        every: step between frames.
    """

    def __init__(self, sequence: RgbdSequence, every: int = 1) -> None:
        self._sequence = sequence
        self._numbers = range(0, len(sequence), every)
        self._last: tuple[int, RgbdFrame] | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> PosedImage: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PosedImage]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        number = self._numbers[index]
        frame = self._frame(number)
        return PosedImage(
            f"{number:06d}",
            frame.intrinsics,
            frame.world_from_camera,
            partial(self._color, number),
            partial(self._depth, number),
        )

    def _frame(self, number: int) -> RgbdFrame:
        last = self._last  # read once: images may be loaded on several threads
        if last is None or last[0] != number:
            last = self._last = number, self._sequence[number]
        return last[1]

    def _color(self, number: int) -> np.ndarray:
        return self._frame(number).color

    def _depth(self, number: int) -> np.ndarray:
        return self._frame(number).depth


def read_color(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """sRGB, uint8 [H, W, 3] of an image file, brought to ``size`` (width, height) by area averaging.

    Raises:
        ImageError: no such file, or no colour image.
    """
    try:
        color = color_to_rgb(read_file(path))
    except ImageError as error:
        raise _named(path, error) from error
    return color if size in (None, color.shape[1::-1]) else cv2.resize(color, size, interpolation=cv2.INTER_AREA)


def read_depth(path: Path, scale: float = MILLIMETRES, size: tuple[int, int] | None = None) -> np.ndarray:
    """z-depth in metres, float32 [H, W], 0 = none, of a 16-bit PNG with ``scale`` units a metre.

    Brought to ``size`` (width, height) by nearest neighbour, as depth must not be mixed across an edge.

    Raises:
        ImageError: no such file, or no 16-bit image.
    """
    try:
        depth = depth_to_metres(read_file(path), "16UC1", scale)
    except ImageError as error:
        raise _named(path, error) from error
    if size not in (None, depth.shape[1::-1]):
        depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    return depth.astype(np.float32, copy=False)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file.

    Raises:
        ImageError: no such file, or it does not decode.
    """
    return read_file(path).shape[1::-1]


def rigid(transform: np.ndarray, path: Path, what: str) -> np.ndarray:
    """A pose, if it is rigid.

    Raises:
        DatasetError: it is not; the message names the file and the image.
    """
    try:
        return check_rigid(transform, f"pose of {what}")
    except FrameError as error:
        raise DatasetError(f"{path}: {error}") from error


def _named(path: Path, error: ImageError) -> ImageError:
    return error if str(path) in str(error) else ImageError(f"{path}: {error}")
