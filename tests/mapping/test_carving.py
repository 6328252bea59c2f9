"""What a frame sees through, in small."""

from __future__ import annotations

import pytest
import torch
from bodies import make_frame
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.config import MapConfig
from chorus_core.mapping.carving import in_view, nearest_around, seen_through
from chorus_core.mapping.surface import DeviceFrame

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
