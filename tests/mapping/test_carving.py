"""What a frame sees through, in small."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from bodies import make_frame, plane_depth
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.config import MapConfig
from chorus_core.mapping.carving import in_view, look, nearest_around, seen_through
from chorus_core.mapping.surface import DeviceFrame, measure

CONFIG = MapConfig()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_nearest_around_is_the_least_of_the_neighbourhood(height: int, width: int, seed: int) -> None:
    depth = torch.rand((height, width), generator=torch.Generator().manual_seed(seed))
    before = depth.clone()
    found = nearest_around(depth)
    assert torch.equal(depth, before)
    for v in range(height):
        for u in range(width):
            assert found[v, u] == depth[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].min()


@pytest.mark.parametrize(
    ("z", "through", "inside"),
    [
        (1.0, True, True),  # a metre of free space behind it
        (1.99, False, True),  # on the wall, within the margin
        (3.0, False, True),  # behind the wall: nobody knows
        (0.05, False, False),  # nearer than the sensor measures
        (-1.0, False, False),  # behind the camera
    ],
)
def test_a_point_on_the_axis_before_a_wall_at_two_metres(z: float, through: bool, inside: bool) -> None:
    frame = DeviceFrame.upload(make_frame(2.0), torch.device("cpu"))
    point = torch.tensor([[0.0, 0.0, z]])
    assert bool(seen_through(point, frame, CONFIG)) is through
    assert bool(in_view(point, frame, CONFIG)) is inside


def test_points_beside_the_image_are_left_alone() -> None:
    frame = DeviceFrame.upload(make_frame(2.0), torch.device("cpu"))
    points = torch.tensor([[9.0, 0.0, 1.0], [0.0, -9.0, 1.0]])
    assert not seen_through(points, frame, CONFIG).any()
    assert not in_view(points, frame, CONFIG).any()


def looked_at(z: float, normal: tuple[float, float, float] = (0.0, 0.0, -1.0), depth=2.0, stride: int = 1) -> float:
    """What is expected of a point on the axis of a camera before a wall at two metres."""
    frame = DeviceFrame.upload(make_frame(depth), torch.device("cpu"))
    return float(look(torch.tensor([[0.0, 0.0, z]]), torch.tensor([normal]), frame, CONFIG, stride).expected)


@pytest.mark.parametrize("z", [2.0, 1.95, 2.05])
def test_a_surface_near_the_measured_one_should_have_been_measured(z: float) -> None:
    pixels = (130.0 * CONFIG.voxel_size / z) ** 2  # those that fall on a voxel that faces the camera
    assert looked_at(z) == pytest.approx(1.0 - math.exp(-pixels))
    assert looked_at(z, stride=4) == pytest.approx(1.0 - math.exp(-pixels / 16))


@pytest.mark.parametrize("z", [1.0, 3.0, -1.0, 1.85, 2.15])
def test_nothing_is_expected_before_or_behind_it(z: float) -> None:
    assert looked_at(z) == 0.0


def test_nothing_is_expected_of_a_side_that_is_turned_away() -> None:
    """A board that is 3 cm thick is measured from one side: the other has missed nothing."""
    assert looked_at(2.03, normal=(0.0, 0.0, 1.0)) == 0.0
    assert looked_at(2.0, normal=(1.0, 0.0, -0.01)) == 0.0


def test_nothing_is_expected_where_depth_is_missing_jumps_or_is_out_of_range() -> None:
    depth = np.full((120, 160), 2.0)
    depth[59:62, 79:82] = 0.0
    assert looked_at(2.0, depth=depth) == 0.0
    depth = np.full((120, 160), 2.0)
    depth[:, 81:] = 1.0
    assert looked_at(2.0, depth=depth) == 0.0
    assert looked_at(CONFIG.depth_max + 0.01, depth=CONFIG.depth_max + 0.01) == 0.0


@pytest.mark.parametrize("stride", [2, 4, 7])
def test_what_is_expected_is_the_share_of_voxels_that_pixels_fall_on(stride: int) -> None:
    """Of a slanted wall, against a count of the voxels that any pixel falls on and those of a stride."""
    normal, offset, voxel = np.array([0.6, 0.0, 0.8]), 1.6, 0.04
    config = MapConfig(voxel_size=voxel)
    frame = DeviceFrame.upload(make_frame(plane_depth(np.eye(4), normal, offset)), torch.device("cpu"))
    pixels = measure(frame, config, stride)
    met = {tuple(v) for v in torch.floor(pixels.points / voxel).long().tolist()}

    along = np.array([0.8, 0.0, -0.6])
    steps = np.arange(-0.4, 0.4, 0.002)
    wall = (normal * offset + along * steps[:, None])[:, None] + np.array([0.0, 1.0, 0.0]) * steps[None, :, None]
    cells, first = np.unique(np.floor(wall.reshape(-1, 3) / voxel), axis=0, return_index=True)
    area = np.unique(np.floor(wall.reshape(-1, 3) / voxel), axis=0, return_counts=True)[1] * 0.002**2
    whole = area > 0.9 * voxel**2  # a voxel that the wall only cuts the corner of is met less
    points = torch.tensor(wall.reshape(-1, 3)[first][whole], dtype=torch.float32)
    expected = look(
        points, torch.tensor(-normal, dtype=torch.float32).expand_as(points), frame, config, stride
    ).expected
    hit = np.mean([tuple(int(x) for x in cell) in met for cell in cells[whole]])
    assert abs(float(expected.mean()) - hit) < 0.15
