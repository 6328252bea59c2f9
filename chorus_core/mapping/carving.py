"""Free space: which points of the map a frame sees through, and which of them it should have measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.config import MapConfig
from chorus_core.mapping.surface import DeviceFrame

_FARTHEST = 40.0
"""Metres no RGB-D camera measures: what lies beyond marks missing or saturated depth (65.535 m in 16 bits)."""

_FACING = 0.1
"""Cosine between a normal and the way to the camera from which on a surface is looked at: 60 degrees."""


@dataclass(frozen=True)
class Look:
    """What a frame shows of points of the map, [N] each.

    Attributes:
        through: bool, stands in what the frame shows to be empty.
        expected: probability in [0, 1] that a surface there would have been measured by the pixels that are used; 0
            where it is hidden, turned away, or beside a jump of depth.
    """

    through: Tensor
    expected: Tensor


def look(points: Tensor, normals: Tensor, frame: DeviceFrame, config: MapConfig, stride: int = 1) -> Look:
    """What a frame shows of points with normals, [N, 3] both in the world, when it is used at a stride.

    A point is seen through where even the nearest depth of the 3 x 3 pixels around its projection lies clearly behind
    it. The margin grows with the square of depth, as the sensor's noise does. Within that margin, before or behind
    what is measured, the point would be part of this surface. Pixels fall on it as on any area of their number
    (Poisson): a far or slanted voxel is often met by none.
    """
    z, pixel = project(points, frame, config.depth_min)
    seen, pixel = pixel >= 0, pixel.clamp(min=0)
    nearest = nearest_around(frame.depth).view(-1)[pixel]
    margin = config.carve_margin + 0.01 * z.square()
    # What is too far away to be mapped still shows that the space before it is free.
    through = seen & (nearest > z + margin) & (nearest < _FARTHEST)

    measured = frame.depth.view(-1)[pixel]
    there = seen & ((measured - z).abs() < margin) & (measured - nearest < 0.5 * margin)
    there &= (measured > config.depth_min) & (measured < config.depth_max)
    away = frame.world_from_camera[:3, 3] - points
    facing = (away * normals).sum(dim=1) / away.norm(dim=1).clamp(min=1e-6)
    edge = frame.intrinsics.fx / stride * config.voxel_size / z.clamp(min=1e-6)  # of a voxel, in the pixels used
    pixels = torch.where(there & (facing > _FACING), edge.square() * facing, 0.0)
    return Look(through, 1.0 - torch.exp(-pixels))


def seen_through(points: Tensor, frame: DeviceFrame, config: MapConfig) -> Tensor:
    """Which world points [N, 3] stand in what the frame shows to be empty, bool [N]; see :func:`look`."""
    return look(points, torch.zeros_like(points), frame, config).through


def nearest_around(depth: Tensor) -> Tensor:
    """The least value of the 3 x 3 pixels around each, [H, W] of [H, W].

    Rows, then columns. torch's max_pool2d does the same, and takes most of a frame's time on a CPU.
    """
    rows = depth.clone()
    torch.minimum(rows[1:], depth[:-1], out=rows[1:])
    torch.minimum(rows[:-1], depth[1:], out=rows[:-1])
    out = rows.clone()
    torch.minimum(out[:, 1:], rows[:, :-1], out=out[:, 1:])
    torch.minimum(out[:, :-1], rows[:, 1:], out=out[:, :-1])
    return out


def in_view(points: Tensor, frame: DeviceFrame, config: MapConfig) -> Tensor:
    """Which world points [N, 3] lie within the image and the range of depths, bool [N]."""
    z, pixel = project(points, frame, config.depth_min)
    return (pixel >= 0) & (z < config.depth_max)


def project(points: Tensor, frame: DeviceFrame, depth_min: float) -> tuple[Tensor, Tensor]:
    """z-depth [N] and flat pixel index [N] (-1 outside the image or nearer than ``depth_min``) of points [N, 3]."""
    k = frame.intrinsics
    rotation, translation = frame.world_from_camera[:3, :3], frame.world_from_camera[:3, 3]
    x, y, z = ((points - translation) @ rotation).unbind(1)
    safe_z = z.clamp(min=1e-6)
    u = torch.round(x / safe_z * k.fx + k.cx).long()
    v = torch.round(y / safe_z * k.fy + k.cy).long()
    inside = (z > depth_min) & (u >= 0) & (u < k.width) & (v >= 0) & (v < k.height)
    return z, torch.where(inside, v * k.width + u, -1)
