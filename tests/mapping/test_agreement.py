"""Shares of agreement in cases that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bodies import CAMERA, make_frame, rays

from chorus_core.mapping.agreement import NOTHING_TO_COMPARE, coarse_stride, compare
from chorus_core.mapping.surface import DeviceFrame

CPU = torch.device("cpu")


def coarse(depth: np.ndarray | float) -> DeviceFrame:
    return DeviceFrame.upload(make_frame(depth), CPU, coarse_stride(CAMERA.width))


def wall(z: float, columns: slice = slice(None)) -> torch.Tensor:
    """Points of a wall seen straight on, one a pixel [N, 3]."""
    return torch.tensor(rays(CAMERA)[:, columns].reshape(-1, 3) * z, dtype=torch.float32)


def test_half_a_wall_agrees_and_half_is_seen_through() -> None:
    depth = np.full((120, 160), 2.0)
    depth[:, :80] = 3.0
    seen = compare(wall(2.0), coarse(depth))
    assert (seen.covered, seen.agree, seen.through) == pytest.approx((1.0, 0.5, 0.5), abs=0.02)


def test_a_wall_known_behind_what_left_agrees() -> None:
    points = torch.cat((wall(1.0, slice(40, 120)), wall(3.0)))
    seen = compare(points, coarse(3.0))
    assert (seen.agree, seen.through) == (1.0, 0.0)


def test_what_is_hidden_neither_agrees_nor_is_seen_through() -> None:
    seen = compare(wall(3.0), coarse(1.0))
    assert (seen.covered, seen.agree, seen.through) == (1.0, 0.0, 0.0)


def test_the_ratio_of_scaled_depth() -> None:
    depth = np.broadcast_to(np.linspace(1.0, 3.0, 160), (120, 160))
    points = torch.tensor(rays(CAMERA) * depth[..., None], dtype=torch.float32).reshape(-1, 3)
    seen = compare(points, coarse(2.0 * depth))
    assert seen.ratio == pytest.approx(2.0, rel=0.03)
    assert seen.proportional > 0.95
    assert seen.relief == pytest.approx(2.8 / 1.2, rel=0.05)


@pytest.mark.parametrize("depth", [0.0, 2.0])
def test_nothing_to_compare(depth: float) -> None:
    behind = torch.tensor([[0.0, 0.0, -2.0]])
    assert compare(behind, coarse(depth)) == NOTHING_TO_COMPARE
    assert compare(torch.zeros(0, 3), coarse(depth)) == NOTHING_TO_COMPARE


def test_covered_is_the_share_of_the_view_that_is_mapped() -> None:
    assert compare(wall(2.0, slice(0, 40)), coarse(2.0)).covered == pytest.approx(0.25, abs=0.03)
