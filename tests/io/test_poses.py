"""Interpolation and association of stamped data against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.io.poses import associate, interpolate, interpolate_trajectory, matrix_from_pose

stamps = st.lists(st.integers(0, 500).map(lambda i: i / 100), max_size=25, unique=True)


@given(stamps, stamps, st.sampled_from([0.0, 0.02, 0.1]))
def test_associate_takes_the_closest_first(a, b, tolerance):
    pairs = associate(np.array(a), np.array(b), tolerance)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert [a[i] for i, _ in pairs] == sorted(a[i] for i, _ in pairs)
    gap = {pair: abs(a[pair[0]] - b[pair[1]]) for pair in pairs}
    assert all(distance <= tolerance + 1e-9 for distance in gap.values())
    of_a = dict(pairs)
    of_b = {j: i for i, j in pairs}
    # whatever could still be paired lost one of its two to a pair that is at least as close
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if abs(x - y) <= tolerance - 1e-9 and (i, j) not in gap:
                rivals = [gap[i, of_a[i]]] if i in of_a else []
                rivals += [gap[of_b[j], j]] if j in of_b else []
                assert rivals and min(rivals) <= abs(x - y) + 1e-9


def test_associate_at_half_a_period():
    """Two 30 Hz streams out of step by half a period, with jitter: every frame finds a partner."""
    rng = np.random.default_rng(0)
    a = np.arange(200) / 30 + rng.uniform(-5e-4, 5e-4, 200)
    b = np.arange(200) / 30 + 1 / 60 + rng.uniform(-5e-4, 5e-4, 200)
    assert len(associate(a, b, 0.02)) >= 150


def test_interpolate_halfway():
    a = matrix_from_pose((0, 0, 0), (0, 0, 0, 1))
    b = matrix_from_pose((2, 0, 4), Rotation.from_euler("z", 90, degrees=True).as_quat())
    half = interpolate(1.0, a, 3.0, b, 2.0)
    np.testing.assert_allclose(half[:3, 3], [1, 0, 2])
    np.testing.assert_allclose(half[:3, :3], Rotation.from_euler("z", 45, degrees=True).as_matrix(), atol=1e-12)


def test_quaternion_order_is_xyzw_and_bad_ones_give_no_rotation():
    quarter = matrix_from_pose((0, 0, 0), (0, 0, 2, 2))
    np.testing.assert_allclose(quarter @ [1, 0, 0, 1], [0, 1, 0, 1], atol=1e-12)
    assert np.isnan(matrix_from_pose((0, 0, 0), (0, 0, 0, 0))).any()
    assert np.isnan(matrix_from_pose((0, 0, 0), (0, 0, np.nan, 1))).any()
    assert np.isnan(matrix_from_pose((0, 0, 0), (0, 0, np.inf, 1))).any()


@pytest.mark.filterwarnings("error")
def test_quaternions_of_any_length():
    quarter = matrix_from_pose((0, 0, 0), (0, 0, 1, 1))
    for length in (1e-5, 1e200, 1e307):
        np.testing.assert_allclose(matrix_from_pose((0, 0, 0), (0, 0, length, length)), quarter, atol=1e-12)


def test_trajectory_agrees_with_pairwise_interpolation_and_leaves_gaps():
    rng = np.random.default_rng(0)
    times = np.array([0.0, 0.1, 0.2, 1.0, 1.1])
    poses = np.array([matrix_from_pose(rng.normal(size=3), rng.normal(size=4)) for _ in times])
    at = np.array([-0.1, 0.0, 0.05, 0.2, 0.5, 1.0, 1.07, 1.1, 1.2])
    matrices, known = interpolate_trajectory(times, poses, at, max_gap=0.2)
    assert known.tolist() == [False, True, True, True, False, True, True, True, False]
    np.testing.assert_allclose(matrices[2], interpolate(0.0, poses[0], 0.1, poses[1], 0.05), atol=1e-12)
    np.testing.assert_allclose(matrices[6], interpolate(1.0, poses[3], 1.1, poses[4], 1.07), atol=1e-12)
    np.testing.assert_allclose(matrices[3], poses[2], atol=1e-12)


def test_trajectory_of_none_or_one():
    at = np.array([0.0, 1.0])
    assert not interpolate_trajectory(np.zeros(0), np.zeros((0, 4, 4)), at, 1.0)[1].any()
    matrices, known = interpolate_trajectory(np.ones(1), 2 * np.eye(4)[None], at, 1.0)
    assert known.tolist() == [False, True] and matrices[1, 0, 0] == 2


def test_trajectory_that_knows_none_of_the_times():
    matrices, known = interpolate_trajectory(np.arange(2.0), np.tile(np.eye(4), (2, 1, 1)), np.array([-1.0, 3.0]), 1.0)
    assert known.tolist() == [False, False]
    np.testing.assert_array_equal(matrices, np.tile(np.eye(4), (2, 1, 1)))
