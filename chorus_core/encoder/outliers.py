"""Gaussians that a photometric fit leaves behind and no surface has: blown up, floating alone, or far away."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from chorus_core.gaussians import Gaussians

_LARGEST_METRES, _LEAST_SPREAD = 10.0, 0.1
_FLOATERS, _ENOUGH_NEIGHBOURS = 0.005, 3
_REACH, _FARTHEST_METRES = 0.25, 2.0


def inliers(gaussians: Gaussians, deviations: float = 5.0) -> Tensor:
    """Which Gaussians are worth encoding, bool [N] on their device.

    Left out, with the release's figures, are those

    - whose largest standard deviation is above 10 m, or its logarithm more than ``deviations`` times the median
      absolute deviation (taken as 0.1 at least) above the median;
    - and among the 0.5 % largest, those with fewer than 3 others within 0.25 sqrt(largest standard deviation) metres,
      2 m at most.
    """
    if len(gaussians) == 0:
        return torch.zeros(0, dtype=torch.bool, device=gaussians.device)
    size = gaussians.scales.amax(dim=1).double().clamp(min=1e-12)  # [N]
    excess = size.log() - size.log().median()
    kept = (excess <= deviations * excess.abs().median().clamp(min=_LEAST_SPREAD)) & (size <= _LARGEST_METRES)
    suspects = torch.topk(size, max(1, round(_FLOATERS * len(size)))).indices
    radius = (_REACH * size[suspects].sqrt()).clamp(max=_FARTHEST_METRES)
    means = gaussians.means.double().cpu().numpy()
    suspect_means = means[suspects.cpu().numpy()]
    near = cKDTree(means).query_ball_point(suspect_means, radius.cpu().numpy(), return_length=True, workers=-1)
    others = torch.as_tensor(near, device=kept.device) - 1
    kept[suspects] &= others >= _ENOUGH_NEIGHBOURS
    return kept


def within_reach(points: Tensor, reach: float) -> Tensor:
    """The most points that a box of an edge of ``reach`` metres holds, found axis after axis, bool [N].

    Args:
        points: metres [N, 3].
    """
    host = points.detach().cpu().double().numpy()
    inside = np.ones(len(host), bool)
    for axis in range(3):
        along = np.sort(host[inside, axis])
        if not len(along) or along[-1] - along[0] <= reach:
            continue
        counts = np.searchsorted(along, along + reach, side="right") - np.arange(len(along))
        low = along[counts.argmax()]
        inside &= (host[:, axis] >= low) & (host[:, axis] <= low + reach)
    return torch.from_numpy(inside).to(points.device)


def lone(points: Tensor, radius: float) -> Tensor:
    """Which points have fewer than 3 others within ``radius`` metres, bool [N].

    Args:
        points: metres [N, 3].
    """
    host = points.detach().cpu().double().numpy()
    found = np.zeros(len(host), bool)
    candidates = _in_sparse_cells(host, radius / np.sqrt(3.0)) if len(host) else found
    if candidates.any():
        near = cKDTree(host).query_ball_point(host[candidates], radius, return_length=True, workers=-1)
        found[candidates] = near - 1 < _ENOUGH_NEIGHBOURS
    return torch.from_numpy(found).to(points.device)


def _in_sparse_cells(points: np.ndarray, edge: float) -> np.ndarray:
    """Points [N] that share their cell with fewer than 3 others; all where the cells are too many to number."""
    cells = np.floor((points - points.min(axis=0)) / edge)
    if cells.max() >= 1 << 20:
        return np.ones(len(points), bool)
    numbers = cells.astype(np.int64) @ (1 << np.array([40, 20, 0]))
    _, cell_of, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return counts[cell_of] <= _ENOUGH_NEIGHBOURS
