"""How far a frame agrees with the map: its depth against the surfaces of the map that its pose says are in view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.mapping.carving import project
from chorus_core.mapping.surface import DeviceFrame

_COLUMNS = 80
# Metres between a measured depth and a surface that are still the same: noise, pose errors and slanted cells.
_MARGIN, _MARGIN_PER_METRE = 0.1, 0.03
# Depths are in proportion where they lie within this fraction of one ratio.
_PROPORTIONAL = 0.1


@dataclass(frozen=True)
class Agreement:
    """A frame against the map. Shares are of the cells with a measured depth and a surface, except ``covered``.

    Attributes:
        covered: share of the cells with a measured depth behind which or before which the map has a surface.
        agree: on a surface of the map, the nearest or another: behind what has left, the wall is where it was.
        through: behind the nearest surface and on none.
        ratio: median of the measured depth over that of the nearest surface.
        proportional: measured depth is ``ratio`` times that of the nearest surface, within 10 %.
        relief: 90th over 10th percentile of depth, in the map or the frame, the lesser; 1 where one is a flat wall.
    """

    covered: float
    agree: float
    through: float
    ratio: float
    proportional: float
    relief: float


NOTHING_TO_COMPARE = Agreement(0.0, 0.0, 0.0, 1.0, 0.0, 1.0)


def coarse_stride(width: int) -> int:
    """Pixels between samples, so that an image of a width has about 80 across."""
    return max(width // _COLUMNS, 1)


def compare(points: Tensor, frame: DeviceFrame) -> Agreement:
    """Compare the map's points in view [N, 3] with the depth of a coarse frame.

    A person who steps before the camera hides the map, and neither agrees nor is seen through.

    Args:
        points: metres, in the world.
        frame: of few pixels, so that the points leave no hole in a surface.
    """
    measured = frame.depth.reshape(-1)  # [C]
    valid = torch.isfinite(measured) & (measured > 0)
    z, cell = project(points, frame, 1e-3)
    kept = cell >= 0
    z, cell = z[kept], cell[kept]
    nearest = torch.full_like(measured, torch.inf).scatter_reduce_(0, cell, z, "amin")
    margin = _MARGIN + _MARGIN_PER_METRE * measured
    fits = (z - measured[cell]).abs() < margin[cell]
    on_surface = torch.zeros_like(valid)
    on_surface[cell[fits]] = True

    compared = valid & torch.isfinite(nearest)
    count = int(compared.sum())
    if count == 0:
        return NOTHING_TO_COMPARE
    measured, nearest, margin, on_surface = (x[compared] for x in (measured, nearest, margin, on_surface))
    through = ~on_surface & (measured > nearest + margin)
    ratios = measured / nearest
    ratio = ratios.median()
    proportional = (ratios / ratio - 1.0).abs() < _PROPORTIONAL
    numbers = (
        count / valid.sum(), on_surface.float().mean(), through.float().mean(), ratio, proportional.float().mean(),
        torch.minimum(_relief(nearest), _relief(measured)),
    )  # fmt: skip
    return Agreement(*torch.stack(numbers).tolist())  # one transfer


def _relief(depth: Tensor) -> Tensor:
    """90th over 10th percentile, a scalar of [C]."""
    ordered = depth.sort().values
    return ordered[9 * (len(ordered) - 1) // 10] / ordered[(len(ordered) - 1) // 10]
