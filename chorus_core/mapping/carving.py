"""Free space: which points of the map a frame sees through, and which lie in its view."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus_core.config import MapConfig
from chorus_core.mapping.surface import DeviceFrame

_FARTHEST = 40.0
"""Metres no RGB-D camera measures: what lies beyond marks missing or saturated depth (65.535 m in 16 bits)."""


def seen_through(points: Tensor, frame: DeviceFrame, config: MapConfig) -> Tensor:
    """Which world points [N, 3] stand in what the frame shows to be empty, bool [N].

    A point is seen through where even the nearest depth of the 3 x 3 pixels around its projection lies clearly behind
    it. The margin grows with the square of depth, as the sensor's noise does.
    """
    z, pixel = project(points, frame, config.depth_min)
    measured = nearest_around(frame.depth).view(-1)[pixel.clamp(min=0)]
    margin = config.carve_margin + 0.01 * z.square()
    # What is too far away to be mapped still shows that the space before it is free.
    return (pixel >= 0) & (measured > z + margin) & (measured < _FARTHEST)


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
