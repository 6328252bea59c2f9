"""Pictures of a map: by colour, by label, by the principal components of its features, by relevancy to a text.

Compositing is linear, so a view's weights are found once and every picture is one sparse product.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.io.atomic import atomic_path
from chorus_core.rendering import View, contributions

BACKGROUND = 0.08


class Painter:
    """Draws values of Gaussians into one view.

    Args:
        gaussians: on a CPU or a GPU.
        view: what is seen.
    """

    def __init__(self, gaussians: Gaussians, view: View) -> None:
        self._size = (view.intrinsics.height, view.intrinsics.width)
        self._weights = contributions(gaussians, view)

    def paint(self, values: Tensor) -> np.ndarray:
        """An RGB picture, uint8 [H, W, 3], of values in [0, 1] [N, 3]."""
        w = self._weights
        pixels = torch.full((self._size[0] * self._size[1], 3), 0.0, device=values.device)
        pixels.index_add_(0, w.pixels, values.float()[w.gaussians] * w.weights[:, None])
        alpha = torch.zeros(pixels.shape[0], device=values.device).index_add_(0, w.pixels, w.weights)
        picture = pixels + (1 - alpha)[:, None] * BACKGROUND
        return (picture.clamp(0, 1) * 255).round().byte().view(*self._size, 3).cpu().numpy()


def principal_colors(features: Tensor) -> Tensor:
    """The three principal components of features [N, d] as colours in [0, 1] [N, 3]."""
    x = features.float()
    x = x - x.mean(dim=0)
    sample = x[torch.linspace(0, x.shape[0] - 1, min(x.shape[0], 20_000), device=x.device).long()]
    _, _, basis = torch.linalg.svd(sample, full_matrices=False)
    y = x @ basis[:3].T
    low, high = (torch.quantile(y[:: max(1, y.shape[0] // 20_000)], q, dim=0) for q in (0.02, 0.98))
    return ((y - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def heat_colors(scores: Tensor, base: Tensor, threshold: float) -> Tensor:
    """Relevancy [N] as colours [N, 3]: grey below the threshold, yellow to red above it, over a dimmed base [N, 3]."""
    grey = base.mean(dim=1, keepdim=True).expand(-1, 3) * 0.45 + 0.1
    heat = ((scores - threshold) / max(1e-6, 1 - threshold)).clamp(0, 1)
    hot = torch.stack((torch.ones_like(heat), 0.85 - 0.75 * heat, torch.zeros_like(heat)), dim=1)
    return torch.where((scores >= threshold)[:, None], hot, grey)


def overview(gaussians: Gaussians, width: int = 960, height: int = 720, cut: float = 2.0) -> tuple[View, Tensor]:
    """A view from above at an angle, and which Gaussians to draw in it: those below ``cut`` metres over the floor.

    Returns:
        The view and a mask [N]; without the cut the ceiling would hide the rooms.
    """
    means = gaussians.means
    quantiles = torch.tensor((0.01, 0.99), device=means.device)
    sample = means[:: max(1, means.shape[0] // 100_000)]
    low, high = torch.quantile(sample, quantiles, dim=0).cpu().numpy()
    center, extent = (low + high) / 2, high - low
    if extent[1] > extent[0]:  # look along the shorter side
        forward = np.array([1.0, 0.0])
        across, along = extent[1], extent[0]
    else:
        forward = np.array([0.0, 1.0])
        across, along = extent[0], extent[1]
    pitch = np.deg2rad(58.0)
    focal = 1.6 * width
    distance = 1.16 * max(across * focal / width, (along * np.sin(pitch) + 1.5) * focal / height)
    view_direction = np.array([*(forward * np.cos(pitch)), -np.sin(pitch)])
    right = np.array([forward[1], -forward[0], 0.0])
    down = np.cross(view_direction, right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack((right, down, view_direction), axis=1)
    pose[:3, 3] = np.array([center[0], center[1], low[2] + 0.4]) - view_direction * distance
    intrinsics = CameraIntrinsics(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height)
    return View(intrinsics, pose), means[:, 2] < float(low[2]) + cut


def with_legend(picture: np.ndarray, entries: Sequence[tuple[str, np.ndarray]], columns: int = 4) -> np.ndarray:
    """A picture [H, W, 3] with coloured names under it; entries are (name, RGB uint8 [3])."""
    rows = -(-len(entries) // columns)
    strip = np.full((24 * rows + 12, picture.shape[1], 3), 20, np.uint8)
    for i, (name, color) in enumerate(entries):
        x, y = 10 + (i % columns) * (picture.shape[1] // columns), 8 + 24 * (i // columns)
        cv2.rectangle(strip, (x, y), (x + 14, y + 14), tuple(int(c) for c in color), -1)
        cv2.putText(strip, name, (x + 22, y + 13), cv2.FONT_HERSHEY_SIMPLEX, 0.46, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate((picture, strip))


def with_title(picture: np.ndarray, title: str) -> np.ndarray:
    """A picture [H, W, 3] with a line of text over it; characters the font lacks become '?'."""
    bar = np.full((34, picture.shape[1], 3), 20, np.uint8)
    text = title.encode("ascii", "replace").decode()
    cv2.putText(bar, text, (10, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate((bar, picture))


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write an RGB picture, uint8 [H, W, 3], as PNG or JPEG."""
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), picture[..., ::-1]):
            raise OSError(f"{path}: could not be written as an image")
