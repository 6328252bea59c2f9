"""Accuracy of labels against counting by hand."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import class_rows, confusion, iou_table, summarize

LABELS = ("wall", "chair", "table", "lamp")

pairs = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), min_size=1, max_size=60)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


@given(pairs)
def test_means_are_those_of_counted_sets(labelled: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(column) for column in zip(*labelled, strict=True))
    table = confusion(truth, predicted, 4)
    assert table.sum() == (truth >= 0).sum()
    iou, accuracy = {}, {}
    points = [(i, t, p) for i, (t, p) in enumerate(labelled) if t >= 0]
    for c in range(4):
        is_c, said_c = {i for i, t, _ in points if t == c}, {i for i, _, p in points if p == c}
        if is_c:
            iou[c], accuracy[c] = len(is_c & said_c) / len(is_c | said_c), len(is_c & said_c) / len(is_c)
    found = iou_table(table)
    for c in range(4):
        assert found[c] == iou[c] if c in iou else math.isnan(found[c])
    summary = summarize(table, LABELS)
    expected = {
        "miou": mean(list(iou.values())),
        "f_miou": mean([v for c, v in iou.items() if c != 0]),
        "macc": mean(list(accuracy.values())),
        "f_macc": mean([v for c, v in accuracy.items() if c != 0]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(summary[name], value)
    assert summary["classes"] == len(iou)
    only = summarize(table, LABELS, only={"chair", "wall"})
    np.testing.assert_allclose(only["miou"], mean([v for c, v in iou.items() if c in (0, 1)]))


def test_tables_of_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(-1, 4, 200), rng.integers(-1, 4, 200)
    parts = confusion(truth[:90], predicted[:90], 4) + confusion(truth[90:], predicted[90:], 4)
    assert np.array_equal(parts, confusion(truth, predicted, 4))


def test_no_prediction_is_a_miss_but_no_label() -> None:
    table = confusion(np.array([1, 1, -1]), np.array([1, -1, 2]), 4)
    assert iou_table(table)[1] == 0.5
    assert np.isnan(iou_table(table)[2])


def test_nothing_labelled_has_no_mean() -> None:
    summary = summarize(confusion(np.array([-1]), np.array([2]), 4), LABELS)
    assert all(math.isnan(summary[name]) for name in ("miou", "f_miou", "macc", "f_macc"))
    assert summary["classes"] == 0


@given(pairs)
def test_rows_of_classes_are_those_of_the_tables(labelled: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(column) for column in zip(*labelled, strict=True))
    table = confusion(truth, predicted, 4)
    rows = class_rows(table, LABELS)
    assert set(rows) == {LABELS[c] for c in range(4) if (truth == c).any()}
    for c, label in enumerate(LABELS):
        if label in rows:
            hits, points = int(((truth == c) & (predicted == c)).sum()), int((truth == c).sum())
            assert rows[label] == {"iou": iou_table(table)[c], "accuracy": hits / points, "points": points}


def test_foreground_is_a_choice() -> None:
    table = confusion(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2]), 4)
    assert summarize(table, LABELS)["f_miou"] == 0.5
    assert summarize(table, LABELS, structure=("table",))["f_macc"] == 0.75
