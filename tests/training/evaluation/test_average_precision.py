"""Average precision against hand-made cases and against a plain reference that works on sets of points."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.average_precision import (
    THRESHOLDS,
    SceneMatches,
    average_precision,
    instance_report,
    match_scene,
)

# Ten points: two chairs (class 0) of four, a table (class 1) of one, one point of nothing.
SEGMENT = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, -1])
INSTANCE = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, -1])


def mask(*points: int) -> np.ndarray:
    return np.isin(np.arange(10), points)


def matched(
    *predictions: tuple[np.ndarray, int, float], min_points: int = 1, void: tuple[int, ...] = ()
) -> SceneMatches:
    masks = np.array([p[0] for p in predictions]).reshape(-1, 10)
    classes, confidence = np.array([p[1] for p in predictions]), np.array([p[2] for p in predictions])
    return match_scene(masks, classes, confidence, SEGMENT, INSTANCE, min_points, void)


FIRST, SECOND = mask(0, 1, 2, 3), mask(4, 5, 6, 7)


def test_perfect() -> None:
    scene = matched((FIRST, 0, 0.9), (SECOND, 0, 0.8), (mask(8), 1, 0.7))
    report = instance_report([scene], ("chair", "table", "lamp"), {"head": {"chair"}, "tail": {"lamp"}})
    assert report["all"] == {"map": 1.0, "map50": 1.0, "map25": 1.0, "classes": 2}
    assert report["head"]["map"] == 1.0 and math.isnan(report["tail"]["map"])
    assert report["classes"]["chair"] == {"ap": 1.0, "ap50": 1.0, "ap25": 1.0, "instances": 2}


def test_nothing_predicted_and_nothing_there() -> None:
    assert average_precision([matched()], 0, 0.5) == 0.0
    assert math.isnan(average_precision([matched((FIRST, 2, 0.9))], 2, 0.5))


def test_wrong_class_is_a_miss() -> None:
    assert average_precision([matched((FIRST, 1, 0.9), (SECOND, 0, 0.9))], 0, 0.5) == pytest.approx(0.5)


def test_merged_instances_overlap_each_by_half() -> None:
    scene = matched((FIRST | SECOND, 0, 0.9))
    assert average_precision([scene], 0, 0.5) == 0.0  # more than, not at least
    assert average_precision([scene], 0, 0.25) == pytest.approx(0.5)  # one of two found


def test_split_instance_counts_once() -> None:
    # 3/4 of the first chair is right at 0.5; the rest of it (1/4) is a false alarm after it.
    scene = matched((mask(0, 1, 2), 0, 0.9), (mask(3), 0, 0.8), (SECOND, 0, 0.7))
    # Precision over recall: (1, 0) (1, .5) (.5, .5) (2/3, 1): trapezoids .5 and .5 * (1/2 + 2/3) / 2.
    assert average_precision([scene], 0, 0.5) == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert average_precision([scene], 0, 0.8) == pytest.approx(0.5 * (0 + 1 / 3) / 2)


def test_duplicate_is_a_false_alarm_and_the_surer_one_is_right() -> None:
    surer = matched((FIRST, 0, 0.9), (SECOND, 0, 0.8), (FIRST, 0, 0.7))
    assert average_precision([surer], 0, 0.5) == pytest.approx(1.0)  # it comes after all recall is had
    earlier = matched((FIRST, 0, 0.9), (FIRST, 0, 0.8), (SECOND, 0, 0.7))
    assert average_precision([earlier], 0, 0.5) == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)


def test_void_and_other_classes() -> None:
    right = [(FIRST, 0, 0.5), (SECOND, 0, 0.5)]
    in_void = matched(*right, (mask(9), 0, 0.9))
    assert average_precision([in_void], 0, 0.5) == 1.0
    on_table = matched(*right, (mask(8), 0, 0.9))
    assert average_precision([on_table], 0, 0.5) < 1.0
    table_is_void = matched(*right, (mask(8), 0, 0.9), void=(1,))
    assert average_precision([table_is_void], 0, 0.5) == 1.0 and math.isnan(average_precision([table_is_void], 1, 0.5))


def test_small_instances_are_nothing_to_find_and_no_false_alarm() -> None:
    small = matched((mask(8, 9), 1, 0.9), min_points=2)
    assert math.isnan(average_precision([small], 1, 0.5))
    assert small.ignored.tolist() == [1.0]
    assert matched((mask(8, 9), 0, 0.9), min_points=2).ignored.tolist() == [0.5]  # small, but not of its class
    assert len(matched((mask(0), 0, 0.9), min_points=2).predicted) == 0


def test_scenes_are_pooled_by_confidence() -> None:
    good, bad = matched((FIRST, 0, 0.9), (SECOND, 0, 0.8)), matched((mask(8), 0, 0.95))
    # Four chairs in two scenes: a false alarm first, then two right ones.
    expected = 0.25 * (0 + 1 / 2) / 2 + 0.25 * (1 / 2 + 2 / 3) / 2
    assert average_precision([bad, good], 0, 0.5) == pytest.approx(expected)


def test_thresholds_are_the_benchmarks() -> None:
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def reference(scenes: list, label: int, threshold: Fraction, min_points: int, void: set[int]) -> float:
    """The same protocol on sets, in exact arithmetic, one confidence cut after the other."""
    total, judged = 0, []
    for predictions, segment, instance in scenes:
        points = range(len(segment))
        counted = [i for i in points if segment[i] >= 0 and instance[i] >= 0 and segment[i] not in void]
        things = {}
        for identity in {instance[i] for i in counted}:
            members = {i for i in counted if instance[i] == identity}
            votes = [segment[i] for i in members]
            things[identity] = (members, min(sorted(set(votes)), key=lambda c: (-votes.count(c), c)))
        mine = [members for members, c in things.values() if c == label]
        truth = [members for members in mine if len(members) >= min_points]
        nothing = set(points) - set(counted) | {i for m in mine if len(m) < min_points for i in m}
        total += len(truth)
        free = list(range(len(truth)))
        own = [p for p in predictions if p[1] == label and len(p[0]) >= max(min_points, 1)]
        for members, _, confidence in sorted(own, key=lambda p: -p[2]):
            overlap = {g: Fraction(len(members & truth[g]), len(members | truth[g])) for g in range(len(truth))}
            near = {g for g in overlap if overlap[g] > threshold}
            if candidates := [g for g in free if g in near]:
                free.remove(max(candidates, key=lambda g: overlap[g]))
                judged.append((confidence, 1))
            elif near or Fraction(len(members & nothing), len(members)) <= threshold:
                judged.append((confidence, 0))
    if not total:
        return math.nan
    curve = [(Fraction(0), Fraction(1))]
    for cut in sorted({c for c, _ in judged}, reverse=True):
        taken = [hit for c, hit in judged if c >= cut]
        curve.append((Fraction(sum(taken), total), Fraction(sum(taken), len(taken))))
    return float(sum((r1 - r0) * (p1 + p0) / 2 for (r0, p0), (r1, p1) in pairwise(curve)))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.25, 0.5, 0.75]))
def test_random_scenes_against_sets(seed: int, count: int, min_points: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    void = {2} if rng.random() < 0.5 else set()
    ours, theirs = [], []
    for _ in range(count):
        n, predictions = int(rng.integers(1, 25)), int(rng.integers(0, 7))
        instance = rng.integers(-1, 5, n)
        class_of = rng.integers(-1, 3, 6)
        segment = np.where(rng.random(n) < 0.8, class_of[instance], rng.integers(-1, 3, n))
        # A prediction resembles an instance more often than not.
        base = instance[None] == rng.integers(-1, 5, predictions)[:, None]
        masks = base ^ (rng.random((predictions, n)) < 0.15)
        classes, confidence = rng.integers(0, 3, predictions), rng.permutation(predictions) / 10 + rng.random()
        ours.append(match_scene(masks, classes, confidence, segment, instance, min_points, void))
        rows = [
            (set(np.flatnonzero(m).tolist()), int(c), float(s))
            for m, c, s in zip(masks, classes, confidence, strict=True)
        ]
        theirs.append((rows, segment.tolist(), instance.tolist()))
    for label in range(3):
        found = average_precision(ours, label, threshold)
        np.testing.assert_allclose(found, reference(theirs, label, Fraction(threshold), min_points, void), atol=1e-12)
