"""Gaussians from posed RGB-D images by the online map: what a robot would have built from the same frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tqdm import tqdm

from chorus_core.config import MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import GaussianMap
from chorus_core.stamps import nanoseconds
from training.datasets.base import DatasetError, PosedImage
from training.preparation.views import load_views


def map_images(
    images: Sequence[PosedImage], config: MapConfig, device: torch.device, max_width: int = 0, progress: bool = True
) -> Gaussians:
    """Integrate images one after the other and export the map.

    Args:
        images: all with depth, in the order they were taken.
        config: of the map.
        device: where the map lives.
        max_width: wider images are resized to it; 0 = as they are.
        progress: show a bar.

    Raises:
        DatasetError: an image has no depth.
    """
    if bare := next((image.name for image in images if image.depth is None), None):
        raise DatasetError(f"{bare}: no depth image; the online map needs one with every image")
    grown = GaussianMap(config, device)
    loaded = load_views(images, max_width, depth=True)
    shown = tqdm(loaded, desc="map", total=len(images), unit="image", disable=None if progress else True, leave=False)
    for number, item in enumerate(shown):
        view = item.view
        grown.integrate(RgbdFrame(item.color, item.depth, view.intrinsics, view.world_from_camera, nanoseconds(number)))
    return grown.export().gaussians
