"""Cut a large scene into regions that fit one encoder pass, each read with a margin of context around it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


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
