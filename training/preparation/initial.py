"""Points that a photometric fit begins with: from depth, from labelled points, or random in what the cameras see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from chorus_core.gaussians import Gaussians
from training.preparation.views import LoadedView

_OPACITY, _SHARE_OF_GAP = 0.5, 0.5
_GREY = 0.5
_NEAR, _FAR_EXTENTS = 0.3, 3.0


def camera_extent(views: Sequence[LoadedView]) -> float:
    """Radius of the sphere around the cameras' mean that holds them all, with a tenth to spare; metres, at least 1.

    As 3DGS scales the learning rate of the means; a camera that only turns has an extent too.
    """
    positions = np.stack([v.view.world_from_camera[:3, 3] for v in views])
    return max(1.1 * float(np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()), 1.0)


def points_from_depth(
    views: Sequence[LoadedView], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """About ``count`` back-projected pixels, as many from each view that has depth.

    Returns:
        Points, world frame [P, 3], and colours in [0, 1] [P, 3]; none where no view has depth.
    """
    with_depth = [v for v in views if v.depth is not None]
    points, colors = [np.zeros((0, 3))], [np.zeros((0, 3))]
    for loaded in with_depth:
        rows, columns = np.nonzero(loaded.depth > 0)
        taken = rng.permutation(rows.size)[: -(-count // len(with_depth))]
        rows, columns = rows[taken], columns[taken]
        points.append(_back_project(loaded, columns, rows, loaded.depth[rows, columns]))
        colors.append(loaded.color[rows, columns] / 255.0)
    return np.concatenate(points)[:count], np.concatenate(colors)[:count]


def points_in_frusta(
    views: Sequence[LoadedView], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` points at random pixels and depths, with these pixels' colours; depths are uniform in their logarithm.

    Returns:
        Points, world frame [P, 3], and colours in [0, 1] [P, 3].
    """
    far = _NEAR + _FAR_EXTENTS * camera_extent(views)
    owner = np.sort(rng.integers(len(views), size=count))
    points, colors = [], []
    for number in np.unique(owner):
        loaded = views[number]
        k, size = loaded.view.intrinsics, int((owner == number).sum())
        columns, rows = rng.integers(k.width, size=size), rng.integers(k.height, size=size)
        depth = np.exp(rng.uniform(np.log(_NEAR), np.log(far), size))
        points.append(_back_project(loaded, columns, rows, depth))
        colors.append(loaded.color[rows, columns] / 255.0)
    return np.concatenate(points), np.concatenate(colors)


def initial_gaussians(
    views: Sequence[LoadedView], count: int, seed: int, surface: np.ndarray | None = None
) -> Gaussians:
    """What a fit begins with: from depth where there is any, else on known points of the surface, else random.

    Args:
        count: Gaussians, about.
        surface: known points [M, 3].
    """
    rng = np.random.default_rng(seed)
    points, colors = points_from_depth(views, count, rng)
    if not len(points) and surface is not None and len(surface):
        points = surface[rng.permutation(len(surface))[:count]].astype(np.float64)
        colors = np.full_like(points, _GREY)
    if not len(points):
        points, colors = points_in_frusta(views, count, rng)
    return isotropic(points, colors)


def isotropic(points: np.ndarray, colors: np.ndarray) -> Gaussians:
    """Round Gaussians at points, half as wide as the gap to their three nearest neighbours.

    Args:
        points: [P, 3].
        colors: in [0, 1] [P, 3].
    """
    neighbours = min(4, len(points))
    gaps = cKDTree(points).query(points, k=neighbours)[0].reshape(len(points), neighbours)[:, 1:]
    gap = np.sqrt((gaps**2).mean(axis=1)) if neighbours > 1 else np.full(len(points), 0.1)
    scales = np.clip(_SHARE_OF_GAP * gap, 1e-4, 1.0)[:, None].repeat(3, axis=1)
    quats = torch.zeros(len(points), 4)
    quats[:, 0] = 1.0
    return Gaussians(_float(points), quats, _float(scales), torch.full((len(points),), _OPACITY), _float(colors))


def _back_project(loaded: LoadedView, columns: np.ndarray, rows: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Pixels at z-depths as points in the world [P, 3]."""
    k, pose = loaded.view.intrinsics, loaded.view.world_from_camera
    rays = np.stack(((columns - k.cx) / k.fx, (rows - k.cy) / k.fy, np.ones(len(rows))), axis=1)
    return rays * depth[:, None] @ pose[:3, :3].T + pose[:3, 3]


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
