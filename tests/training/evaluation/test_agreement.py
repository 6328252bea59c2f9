from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.agreement import AgreementError, class_agreement, read_labels

NAMES = ("wall", "chair", "table")


@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 2)), max_size=50))
def test_shares_are_those_of_sets(rows: list[tuple[int, int]]) -> None:
    a, b = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    found = class_agreement(a, b, NAMES)
    both = [i for i, (x, y) in enumerate(rows) if x >= 0 and y >= 0]
    equal = [i for i in both if rows[i][0] == rows[i][1]]
    for value, part, whole in ((found["both"], both, rows), (found["agreement"], equal, both)):
        assert value == len(part) / len(whole) if whole else math.isnan(value)
    for c, name in enumerate(NAMES):
        in_a, in_b = {i for i in both if rows[i][0] == c}, {i for i in both if rows[i][1] == c}
        if not in_a | in_b:
            assert name not in found["classes"]
            continue
        row = found["classes"][name]
        assert row["iou"] == len(in_a & in_b) / len(in_a | in_b) and (row["a"], row["b"]) == (len(in_a), len(in_b))
        assert row["of_a"] == len(in_a & in_b) / len(in_a) if in_a else math.isnan(row["of_a"])
        swapped = class_agreement(b, a, NAMES)["classes"][name]
        assert swapped["iou"] == row["iou"] and (swapped["of_b"] == row["of_a"] or not in_a)


def test_what_it_was_taken_for() -> None:
    found = class_agreement(np.array([1, 1, 1, 1, 0]), np.array([1, 2, 2, 0, 0]), NAMES)
    assert found["classes"]["chair"]["a_taken_for"] == "table" and found["classes"]["wall"]["a_taken_for"] == ""


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [([0, 1], [0], "same ones"), ([3], [0], "less than 3"), ([0.5], [0], "integers"), ([[0]], [[0]], "integers")],
)
def test_unfit_labellings(a: list, b: list, match: str) -> None:
    with pytest.raises(AgreementError, match=match):
        class_agreement(np.array(a), np.array(b), NAMES)


def test_unreadable_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "float.npy", np.zeros(3))
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    for name in ("float.npy", "text.npy", "missing.npy"):
        with pytest.raises(AgreementError, match=name):
            read_labels(tmp_path / name)
