"""From Gaussians or points to the voxels and input channels that a Chorus encoder reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.encoder.serialization import grid_depth, morton
from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import rotations_from_quats

POINT_CHANNELS = 9
"""Of the point variant; see :func:`point_channels`."""


ALIGNMENT = 64
"""Voxels; a multiple of the coarsest cell of any model of up to six stages, each pooled by two."""

ORIENTATION = {11: slice(4, 8), POINT_CHANNELS: slice(6, 9)}
"""Channels that turn with the scene and cannot be averaged (quaternion, normal), by the number of all."""


@dataclass
class Voxels:
    """One scene on the encoder's grid, at most one point a voxel.

    Attributes:
        grid: integer coordinates, minimum 0, along Morton's curve, int64 [V, 3].
        feat: input channels [V, C].
        representative: index of the input point that stands for each voxel [V].
        voxel_of_point: voxel of each input point [N].
    """

    grid: Tensor
    feat: Tensor
    representative: Tensor
    voxel_of_point: Tensor


def gaussian_channels(gaussians: Gaussians) -> Tensor:
    """The 11 channels of the 3DGS variant [N, 11]: colour in [-1, 1], opacity, quaternion wxyz with w >= 0, scale.

    Convention of the release: scales in metres after exp, opacity after sigmoid; the centre is not a channel.
    """
    quats = torch.nn.functional.normalize(gaussians.quats, dim=1)
    quats = torch.where(quats[:, :1] < 0, -quats, quats)
    color = gaussians.colors * 2.0 - 1.0
    return torch.cat((color, gaussians.opacities[:, None], quats, gaussians.scales), dim=1)


def point_channels(points: Tensor, colors: Tensor, normals: Tensor) -> Tensor:
    """The 9 channels of the point variant [N, 9]: centred coordinate, colour in [-1, 1], unit normal.

    Args:
        points: metres [N, 3]; centred here on the middle of the box in x and y, on its floor in z.
        colors: in [0, 1] [N, 3].
        normals: [N, 3].
    """
    if not len(points):
        return points.new_zeros((0, POINT_CHANNELS))
    low, high = points.amin(dim=0), points.amax(dim=0)
    centre = torch.stack(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]))
    return torch.cat((points - centre, colors * 2.0 - 1.0, torch.nn.functional.normalize(normals, dim=1)), dim=1)


def shortest_axes(gaussians: Gaussians) -> Tensor:
    """The normals of flat Gaussians, of either sign, unit [N, 3]."""
    axes = rotations_from_quats(gaussians.quats)
    rows = torch.arange(len(gaussians), device=axes.device)
    return axes[rows, :, gaussians.scales.argmin(dim=1)]


def grid_origin(points: Tensor, grid_size: float) -> Tensor:
    """Lowest cell of a scene on the grid through the world's origin, int64 [3]."""
    return torch.floor(points.amin(dim=0) / grid_size).long()


def voxelize(
    points: Tensor, channels: Tensor, grid_size: float, priority: Tensor | None = None, origin: Tensor | None = None
) -> Voxels:
    """Put points on the encoder's grid; the point of highest priority (the first by default) stands for its voxel.

    Args:
        points: metres [N, 3].
        channels: input channels of each [N, C].
        grid_size: edge of a voxel, metres.
        priority: larger wins [N].
        origin: lowest cell of the scene that these points are a part of [3]. Coordinates then begin at a multiple of
            :data:`ALIGNMENT` from there, so that voxels are pooled with those that they are pooled with in the whole.

    Raises:
        ValueError: points lie more than 65,535 voxels apart.
    """
    grid = torch.floor(points / grid_size).long()
    low = grid.amin(dim=0)
    if origin is not None:
        low = origin + (low - origin) // ALIGNMENT * ALIGNMENT
    grid = grid - low
    if len(grid):
        grid_depth([int(grid.max()) + 1])
    occupied, voxel_of_point = torch.unique(morton(grid), return_inverse=True)
    numbers = torch.arange(points.shape[0], device=points.device)
    if len(occupied) == len(points):  # one in each, as in a map of the same grid
        representative = torch.empty_like(numbers).scatter_(0, voxel_of_point, numbers)
    else:
        order = numbers if priority is None else torch.argsort(priority, descending=True, stable=True)
        rank = torch.empty_like(order).scatter_(0, order, numbers)
        representative = order[torch.full_like(occupied, len(points)).scatter_reduce(0, voxel_of_point, rank, "amin")]
    return Voxels(grid[representative], channels[representative], representative, voxel_of_point)


def mean_channels(channels: Tensor, voxels: Voxels, weight: Tensor | None = None) -> Tensor:
    """Input channels of each voxel as the mean of its points [V, C]; orientations are those of the representative.

    Args:
        channels: of each point [N, C].
        weight: of each point, >= 0 [N]; equal by default.
    """
    weight = torch.ones_like(channels[:, 0]) if weight is None else weight.clamp(min=1e-6)
    total = channels.new_zeros((len(voxels.grid), channels.shape[1] + 1))
    counted = torch.cat((channels, torch.ones_like(channels[:, :1])), dim=1) * weight[:, None]
    total.index_add_(0, voxels.voxel_of_point, counted)
    mean = total[:, :-1] / total[:, -1:]
    orientation = ORIENTATION[channels.shape[1]]
    mean[:, orientation] = voxels.feat[:, orientation]
    return mean


def rank_in_voxel(voxel_of_point: Tensor, priority: Tensor | None = None) -> Tensor:
    """Place of each point among those of its voxel, from 0, higher priority first [N]."""
    order = torch.arange(len(voxel_of_point), device=voxel_of_point.device)
    if priority is not None:
        order = torch.argsort(priority, descending=True, stable=True)
    order = order[torch.argsort(voxel_of_point[order], stable=True)]
    counts = torch.bincount(voxel_of_point)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - first[voxel_of_point[order]]
    return rank
