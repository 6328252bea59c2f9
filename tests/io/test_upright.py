"""Finding the vertical of a hand-held recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.io.rgbd import open_sequence
from chorus_core.io.upright import up_direction, upright_from_world

unit = st.tuples(*(st.floats(-1, 1) for _ in range(3))).filter(lambda v: np.linalg.norm(v) > 0.1)


@given(unit)
def test_rotation_turns_any_direction_up(direction: tuple[float, float, float]) -> None:
    up = np.array(direction) / np.linalg.norm(direction)
    transform = upright_from_world(up)
    np.testing.assert_allclose(transform[:3, :3] @ up, (0, 0, 1), atol=1e-9)
    np.testing.assert_allclose(transform[:3, :3] @ transform[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(transform[:3, :3]) > 0


@given(st.integers(0, 1000), st.floats(0.0, 22.0))
def test_vertical_is_found_among_walls_and_clutter(seed: int, tilt: float) -> None:
    rng = np.random.default_rng(seed)
    world = Rotation.from_rotvec(rng.normal(size=3)).as_matrix()
    floor = rng.normal((0, 0, 1), 0.03, (2000, 3))
    wall = rng.normal((1, 0, 0), 0.03, (3000, 3))
    clutter = rng.normal(size=(500, 3))
    normals = np.concatenate((floor, wall, clutter))
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True) @ world.T
    up = world @ (0, 0, 1)
    guess = Rotation.from_rotvec(np.deg2rad(tilt) * np.cross(up, world @ (0, 1, 0))).apply(up)
    found = up_direction(normals, guess)
    assert np.rad2deg(np.arccos(np.clip(found @ up, -1, 1))) < 1.0


def test_without_horizontal_surfaces_the_guess_stays() -> None:
    wall = np.tile((1.0, 0.0, 0.0), (1000, 1))
    np.testing.assert_allclose(up_direction(wall, np.array((0.0, 0.0, 2.0))), (0, 0, 1))


def test_redkitchen_floor_and_table_lie_flat(shared: Path) -> None:
    sequence = open_sequence(shared / "data" / "redkitchen", upright=True)
    frame = sequence[0]
    tilt = np.rad2deg(np.arccos(np.clip(-frame.world_from_camera[2, 1], -1, 1)))
    assert tilt < 45, "the camera is held roughly upright"
    assert len(sequence) == 300
