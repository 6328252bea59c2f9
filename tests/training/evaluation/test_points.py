from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.io.scene_folder import SceneFolderError
from training.datasets.base import LabelledPoints
from training.evaluation.points import (
    POINTS_FILE,
    load_points,
    save_points,
    vote_in_instances,
    vote_of_neighbours,
)
from training.prepared import InstanceInfo, SceneInfo


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, 20), st.integers(1, 30))
def test_vote_is_that_of_sorted_distances(seed: int, n: int, m: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points, wanted, labels = rng.uniform(0, 1, (n, 3)), rng.uniform(0, 1, (m, 3)), rng.integers(-1, 3, n)
    voted = vote_of_neighbours(points, labels, wanted, k)
    assert voted.dtype == np.int64 and len(voted) == m
    valid = np.flatnonzero(labels >= 0)
    for i in range(m):
        near = sorted(valid, key=lambda j: np.linalg.norm(points[j].astype(np.float64) - wanted[i]))[:k]
        counts = Counter(int(labels[j]) for j in near)
        expected = next((int(labels[j]) for j in near if counts[int(labels[j])] == max(counts.values())), -1)
        assert voted[i] == expected


def test_many_points_are_voted_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    points, wanted, labels = rng.uniform(0, 1, (50, 3)), rng.uniform(0, 1, (33, 3)), rng.integers(0, 3, 50)
    whole = vote_of_neighbours(points, labels, wanted)
    monkeypatch.setattr("training.evaluation.points._VOTE_ROWS", 7)
    assert np.array_equal(vote_of_neighbours(points, labels, wanted), whole)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 4)), max_size=40))
def test_vote_in_instances_is_the_counted_majority(rows: list[tuple[int, int]]) -> None:
    labels, instance = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    voted = vote_in_instances(labels, instance)
    for i, (label, of) in enumerate(rows):
        counts = Counter(l for l, o in rows if o == of and l >= 0)
        if of < 0 or not counts:
            assert voted[i] == label
        else:
            assert voted[i] == min(l for l, c in counts.items() if c == max(counts.values()))


def test_points_of_a_scene_come_back(tmp_path: Path) -> None:
    info = SceneInfo("s", classes=("chair", "table"), instances=(InstanceInfo("chair"),))
    assert load_points(tmp_path, info) is None
    rng = np.random.default_rng(0)
    points = LabelledPoints(
        rng.uniform(0, 1, (9, 3)).astype(np.float32), rng.integers(-1, 2, 9), np.zeros(9, np.int64), info.classes
    )
    save_points(tmp_path, points)
    found = load_points(tmp_path, info)
    assert found is not None and found.classes == info.classes and found.instances == info.instances
    for name in ("points", "segment", "instance"):
        assert np.array_equal(getattr(found, name), getattr(points, name))
    assert sorted(path.name for path in tmp_path.iterdir()) == [POINTS_FILE]


@pytest.mark.parametrize("break_it", ["missing", "length", "finite", "zip"])
def test_bad_points(tmp_path: Path, break_it: str) -> None:
    arrays = {
        "points": np.zeros((4, 3), np.float32),
        "segment": np.zeros(4, np.int32),
        "instance": np.zeros(4, np.int32),
    }
    if break_it == "missing":
        del arrays["instance"]
    if break_it == "length":
        arrays["segment"] = np.zeros(5, np.int32)
    if break_it == "finite":
        arrays["points"][0, 0] = np.nan
    np.savez(tmp_path / POINTS_FILE, **arrays)
    if break_it == "zip":
        (tmp_path / POINTS_FILE).write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(SceneFolderError, match=r"points\.npz"):
        load_points(tmp_path, SceneInfo("s"))
