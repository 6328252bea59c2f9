"""Smoothing of features over the surface: neighbours mostly belong to one thing, so their mean is the better guess."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus_core.encoder.inputs import voxelize
from chorus_core.encoder.sparse_conv import neighbour_pairs


def smooth(features: Tensor, points: Tensor, grid_size: float, rounds: int) -> Tensor:
    """Average features over the occupied voxels among the 27 around each, several times over.

    Points of one voxel share the mean of their features. Free space between two things keeps them apart.

    Args:
        features: of each point [N, d].
        points: metres [N, 3].
        grid_size: edge of a voxel, metres.
        rounds: how often; each reaches one voxel farther. 0 changes nothing.

    Returns:
        Features of the same kind, each as long as its voxel's mean was before the averaging [N, d].
    """
    if rounds == 0 or features.shape[0] == 0:
        return features
    points = points.to(features.device)
    voxels = voxelize(points, points[:, :0], grid_size)
    voxel_of_point, count = voxels.voxel_of_point, len(voxels.grid)
    sums = features.new_zeros((count, features.shape[1]), dtype=torch.float32)
    means = sums.index_add_(0, voxel_of_point, features.float())
    means /= torch.bincount(voxel_of_point, minlength=count)[:, None]

    adjacency = _adjacency(voxels.grid)
    out = means
    for _ in range(rounds):
        out = adjacency @ out
    out = torch.nn.functional.normalize(out, dim=1) * means.norm(dim=1, keepdim=True)
    return out[voxel_of_point].to(features.dtype)


def _adjacency(voxels: Tensor) -> Tensor:
    """Which voxels [V, 3] touch, each itself among them, as a sparse matrix of ones [V, V]."""
    itself = torch.arange(voxels.shape[0], device=voxels.device)
    extent = (voxels.amax(dim=0) + 1).tolist()
    pairs = neighbour_pairs(voxels, torch.zeros_like(itself), extent).values()
    rows, columns = (torch.cat((itself, *ends)) for ends in zip(*pairs, strict=True))
    ones = torch.ones(rows.numel(), device=voxels.device)
    size = (voxels.shape[0],) * 2
    return torch.sparse_coo_tensor(torch.stack((rows, columns)), ones, size, check_invariants=False).coalesce()
