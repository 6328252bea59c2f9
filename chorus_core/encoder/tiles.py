"""Cut a large scene into regions that fit one encoder pass, each read with a margin of context around it.

A pass costs what its voxels do. A scene on a finer grid than the encoder's has several points in each: they are
counted once, and stay together.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def voxel_tiles(points: Tensor, grid_size: float, max_voxels: int, halo: float) -> Iterator[tuple[Tensor, Tensor]]:
    """:func:`tiles` of at most so many occupied voxels of an edge in metres; a voxel's points are in the same ones.

    Yields:
        As there, of the points.
    """
    if len(points) <= max_voxels:
        yield from tiles(points, max_voxels, halo)
        return
    grid = torch.floor(points / grid_size).long()
    grid -= grid.amin(dim=0)
    height, depth = (grid.amax(dim=0) + 1)[1:]
    numbers = (grid[:, 0] * height + grid[:, 1]) * depth + grid[:, 2]
    occupied, voxel_of_point = torch.unique(numbers, return_inverse=True)
    if len(occupied) == len(points):
        yield from tiles(points, max_voxels, halo)
        return
    any_point = torch.empty_like(occupied).scatter_(0, voxel_of_point, torch.arange(len(points), device=points.device))
    centers = (torch.floor(points[any_point] / grid_size) + 0.5) * grid_size  # [V, 3]
    for region, owned in tiles(centers, max_voxels, halo):
        role = torch.zeros(len(centers), dtype=torch.int8, device=points.device)  # 1: read, 2: owned
        role[region] = 1 + owned.to(torch.int8)
        role = role[voxel_of_point]
        read = role.nonzero().squeeze(1)
        yield read, role[read] == 2


def tiles(points: Tensor, max_points: int, halo: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Split the horizontal plane until every region holds at most ``max_points`` with its halo.

    Args:
        points: metres, z up [N, 3].
        max_points: points of a pass at most; a region is not cut below twice the halo's width.
        halo: metres of context around a region.

    Yields:
        Indices of the region's points and its halo's [M], and which of these the region itself owns, bool [M].
        Every point is owned exactly once.
    """
    owned = torch.arange(points.shape[0], device=points.device)
    yield from _split(points, owned, max_points, halo)


def _split(points: Tensor, owned: Tensor, max_points: int, halo: float) -> Iterator[tuple[Tensor, Tensor]]:
    if owned.numel() == 0:
        return
    plane = points[owned, :2]
    low, high = plane.amin(dim=0), plane.amax(dim=0)
    inside = ((points[:, :2] >= low - halo) & (points[:, :2] <= high + halo)).all(dim=1)
    region = inside.nonzero().squeeze(1)
    axis = int((high - low).argmax())
    if region.numel() <= max_points or float((high - low)[axis]) <= 2 * halo:
        is_owned = torch.zeros(points.shape[0], dtype=torch.bool, device=points.device)
        is_owned[owned] = True
        yield region, is_owned[region]
        return
    middle = plane[:, axis].median()
    below = plane[:, axis] <= middle
    if bool(below.all()):  # many points share the median; cut the box instead
        below = plane[:, axis] <= (low + high)[axis] / 2
    yield from _split(points, owned[below], max_points, halo)
    yield from _split(points, owned[~below], max_points, halo)
