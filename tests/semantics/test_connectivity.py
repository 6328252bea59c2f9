from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from chorus_core.semantics import connectivity
from chorus_core.semantics.connectivity import connected_groups, connected_groups_of_kinds


def brute_force(points: np.ndarray, gap: float, min_count: int) -> list[frozenset[int]]:
    """Groups by walking the full graph."""
    near = cdist(points, points) <= gap
    left, groups = set(range(len(points))), []
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            i = edge.pop()
            group.add(i)
            fresh = [j for j in left if near[i, j]]
            left.difference_update(fresh)
            edge += fresh
        if len(group) >= min_count:
            groups.append(frozenset(group))
    return groups


def as_sets(groups: np.ndarray) -> list[frozenset[int]]:
    return [frozenset(np.flatnonzero(groups == i).tolist()) for i in range(groups.max(initial=-1) + 1)]


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 120),
    extent=st.floats(0.01, 30.0),
    gap=st.floats(0.05, 4.0),
    min_count=st.integers(1, 5),
    lattice=st.booleans(),
)
def test_same_groups_as_the_full_graph(
    seed: int, count: int, extent: float, gap: float, min_count: int, lattice: bool
) -> None:
    points = np.random.default_rng(seed).uniform(-extent, extent, (count, 3))
    if lattice:  # many equal points, and a gap no distance between them comes close to
        points, gap = np.round(points), np.floor(gap) + 0.2
    found = connected_groups(points, gap, min_count)
    assert set(as_sets(found)) == set(brute_force(points, gap, min_count))
    sizes = np.bincount(found[found >= 0], minlength=1)
    assert (np.diff(sizes) <= 0).all()


def test_pairs_are_checked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).uniform(0, 4, (300, 3))
    whole = connected_groups(points, 0.55)
    monkeypatch.setattr(connectivity, "_PAIRS_AT_ONCE", 3)
    np.testing.assert_array_equal(connected_groups(points, 0.55), whole)


def test_a_chain_holds_and_a_gap_parts() -> None:
    x = np.concatenate([np.arange(50) * 0.079, 50 * 0.079 + 0.085 + np.arange(20) * 0.079])
    groups = connected_groups(np.c_[x, x * 0, x * 0], 0.08)
    assert groups[:50].tolist() == [0] * 50
    assert groups[50:].tolist() == [1] * 20


@pytest.mark.parametrize("gap", [0.05, 0.08, 0.2])
def test_a_hundred_thousand_points(gap: float) -> None:
    grid = np.stack(np.meshgrid(np.arange(224), np.arange(224)), -1).reshape(-1, 2) * 0.02
    noise = np.random.default_rng(1).normal(0, 0.004, (2 * len(grid), 3))
    points = noise + np.concatenate([np.c_[grid, 0 * grid[:, 0]], np.c_[grid[:, 0], 0 * grid[:, 0] + 9, grid[:, 1]]])
    groups = connected_groups(points, gap, 15)
    pairs = cKDTree(points).query_pairs(gap, output_type="ndarray")
    assert (groups[pairs[:, 0]] == groups[pairs[:, 1]]).all()
    assert groups.max() == 1


def test_nothing_and_one() -> None:
    assert connected_groups(np.zeros((0, 3)), 0.1).shape == (0,)
    assert connected_groups(np.zeros((1, 3)), 0.1).tolist() == [0]
    assert connected_groups(np.zeros((1, 3)), 0.1, min_count=2).tolist() == [-1]


@pytest.mark.parametrize(
    ("points", "gap", "min_count", "reason"),
    [
        (np.zeros((3, 2)), 0.1, 1, r"\(3, 2\)"),
        (np.zeros((3, 3)), 0.0, 1, "gap = 0.0"),
        (np.zeros((3, 3)), np.nan, 1, "gap = nan"),
        (np.zeros((3, 3)), 0.1, 0, "min_count = 0"),
        (np.full((3, 3), np.nan), 0.1, 1, "non-finite"),
        (np.array([[0.0, 0, 0], [1e9, 0, 0]]), 0.1, 1, "too far"),
    ],
)
def test_bad_input(points: np.ndarray, gap: float, min_count: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connected_groups(points, gap, min_count)


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3]), st.sampled_from([3.0, 4000.0]))
@settings(max_examples=40, deadline=None)
def test_groups_of_kinds_are_those_of_each_kind_alone(seed: int, gap: float, extent: float) -> None:
    """Also where the kinds moved apart would fill more cells than there are."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 120))
    points = rng.uniform(0, 1, (count, 3)) * (1.0, 0.3, 0.1)
    points[: count // 10, 0] *= extent
    kinds = rng.integers(0, 30, count) * 7 - 3
    found = connected_groups_of_kinds(points, kinds, gap)
    pairs = set()
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        groups = connected_groups(points[rows], gap)
        alike = groups[:, None] == groups
        pairs |= set(zip(*(rows[places].tolist() for places in np.nonzero(alike)), strict=True))
    assert pairs == {(a, b) for a in range(count) for b in range(count) if found[a] == found[b]}
    assert set(found.tolist()) == set(range(len(set(found.tolist()))))
