from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.probes import choose_scenes, keep_points

FOLDERS = [Path("data/train") / f"scene{i:04d}_00" for i in range(60)]


@given(st.integers(0, 1000), st.floats(0.001, 1), st.floats(0.001, 1))
def test_smaller_shares_are_parts_of_larger(seed: int, one: float, other: float) -> None:
    less, more = (choose_scenes(FOLDERS, fraction, seed) for fraction in sorted((one, other)))
    assert set(less) <= set(more) and len(more) == max(1, round(max(one, other) * 60))
    assert more == [folder for folder in FOLDERS if folder in set(more)]
    assert more == choose_scenes(FOLDERS, max(one, other), seed)


def test_shares_of_scannet_are_the_benchmarks_counts() -> None:
    folders = [Path(f"scene{i}") for i in range(1201)]
    assert [len(choose_scenes(folders, f, 0)) for f in (0.01, 0.05, 0.1, 0.2, 1.0)] == [12, 60, 120, 240, 1201]


def test_the_choice_depends_on_seed_and_name_only() -> None:
    assert choose_scenes(FOLDERS, 0.2, 0) != choose_scenes(FOLDERS, 0.2, 1)
    elsewhere = [Path("other") / folder.name for folder in FOLDERS]
    assert [f.name for f in choose_scenes(elsewhere, 0.2, 0)] == [f.name for f in choose_scenes(FOLDERS, 0.2, 0)]
    # scenes drawn from more scenes are the same where they are drawn at all
    more = choose_scenes([*FOLDERS, *(Path(f"extra{i}") for i in range(60))], 0.1, 0)
    assert set(more) & set(FOLDERS) <= set(choose_scenes(FOLDERS, 0.2, 0))


@given(st.integers(0, 1000), st.lists(st.integers(-1, 3), max_size=50), st.integers(1, 60), st.integers(1, 60))
def test_fewer_points_are_part_of_more(seed: int, labels: list[int], one: int, other: int) -> None:
    segment = torch.tensor(labels, dtype=torch.int64)
    less, more = (keep_points(segment, count, "s", seed) for count in sorted((one, other)))
    known = int((segment >= 0).sum())
    assert int((less >= 0).sum()) == min(known, min(one, other)) and int((more >= 0).sum()) == min(
        known, max(one, other)
    )
    assert bool(((less < 0) | (less == more)).all()) and bool(((more < 0) | (more == segment)).all())
    assert torch.equal(more, keep_points(segment, max(one, other), "s", seed))


def test_scenes_draw_their_own_points() -> None:
    segment = torch.zeros(500, dtype=torch.int64)
    assert torch.equal(keep_points(segment, None, "a", 0), segment)
    a, b, c = (keep_points(segment, 20, name, seed) for name, seed in (("a", 0), ("b", 0), ("a", 1)))
    assert not torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1])
def test_bad_choices(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        choose_scenes(FOLDERS, fraction, 0)
    with pytest.raises(ValueError, match="points per scene"):
        keep_points(torch.zeros(3, dtype=torch.int64), 0, "a", 0)
