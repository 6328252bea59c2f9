from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.semantics.calibration import (
    Calibration,
    CalibrationError,
    choose_threshold,
    fit_calibration,
    peak_score,
)

scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40)


def test_recovers_a_known_logistic() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 400_000)
    present = rng.random(len(x)) < 1 / (1 + np.exp(-(8 * x - 2)))
    fitted = fit_calibration(x[present], x[~present], ridge=0.0)
    # Classes are weighed alike, which moves the log-odds by those of the prior.
    prior = np.log(present.mean() / (1 - present.mean()))
    assert fitted.scale == pytest.approx(8, rel=0.03)
    assert fitted.offset == pytest.approx(-2 - prior, abs=0.06)


def test_agrees_with_scikit_learn() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(1)
    present, absent = rng.normal(0.5, 0.2, 3000), rng.normal(0.2, 0.2, 5000)
    x, y = np.concatenate([present, absent])[:, None], np.repeat([1, 0], [3000, 5000])
    reference = linear.LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8).fit(x, y)
    fitted = fit_calibration(present, absent, ridge=0.0)
    assert fitted.scale == pytest.approx(reference.coef_[0, 0], rel=0.02)
    assert fitted.offset == pytest.approx(reference.intercept_[0], rel=0.02)


def test_recovers_all_three_weights() -> None:
    rng = np.random.default_rng(2)
    evidence = rng.normal(0.3, 0.1, (200_000, 3))
    truth = Calibration(scale=20.0, offset=1.0, contrast=0.3, commonness=0.6)
    present = torch.rand(len(evidence), generator=torch.Generator().manual_seed(0)) < truth(torch.from_numpy(evidence))
    found = fit_calibration(evidence[present.numpy()], evidence[~present.numpy()], ridge=0.0)
    assert (found.scale, found.contrast) == (pytest.approx(20.0, rel=0.02), pytest.approx(0.3, abs=0.02))
    assert found.commonness == pytest.approx(0.6, abs=0.02)


def test_similarities_alone_leave_the_rest_out() -> None:
    found = fit_calibration([0.8, 0.7, 0.4], [0.2, 0.3, 0.5])
    assert (found.contrast, found.commonness) == (0.0, 0.0)


def test_classes_apart_give_a_finite_and_certain_answer() -> None:
    fitted = fit_calibration([0.8, 0.9, 0.85], [0.1, 0.2, 0.15])
    low, high = fitted(torch.tensor([[0.15, 0, 0], [0.85, 0, 0]])).tolist()
    assert low < 0.3
    assert high > 0.7


@pytest.mark.parametrize(
    ("present", "absent", "reason"),
    [
        ([], [0.1], "evidence_present is empty"),
        ([0.1], [], "evidence_absent is empty"),
        ([0.1, np.nan], [0.1], "evidence_present holds"),
        ([[0.1, 0.2]], [0.1], r"evidence_present has shape \(1, 2\)"),
        ([0.1, 0.2], [0.8, 0.9], "more similar"),
        ([0.5], [0.5], "more similar"),
    ],
)
def test_evidence_that_teaches_nothing(present: list, absent: list, reason: str) -> None:
    with pytest.raises(CalibrationError, match=reason):
        fit_calibration(present, absent)


@pytest.mark.parametrize(
    "values", [(0.0, 0.0, 1.0), (-1.0, 0.0, 1.0), (np.inf, 0.0, 1.0), (1.0, np.nan, 1.0), (1.0, 0.0, np.inf)]
)
def test_impossible_calibrations(values: tuple[float, float, float]) -> None:
    with pytest.raises(CalibrationError):
        Calibration(*values)


@settings(deadline=None)
@given(scores, scores)
def test_threshold_is_the_best_of_all(present: list[float], absent: list[float]) -> None:
    def quality(threshold: float) -> float:
        return np.mean(np.array(present) >= threshold) - np.mean(np.array(absent) >= threshold)

    best = max(quality(t) for t in [*present, *absent, 2.0])
    assert quality(choose_threshold(present, absent)) == pytest.approx(best)


@settings(deadline=None)
@given(scores, scores, st.sampled_from([0.0, 0.05, 0.25, 0.5]))
def test_threshold_keeps_to_its_false_alarms(present: list[float], absent: list[float], share: float) -> None:
    threshold = choose_threshold(present, absent, max_false_alarms=share)
    assert np.mean(np.array(absent) >= threshold) <= share
    lower = [t for t in [*present, *absent] if t < threshold]
    # No lower score would do: the threshold is no stricter than it must be.
    assert all(np.mean(np.array(absent) >= t) > share for t in lower)


def test_threshold_lies_in_the_gap() -> None:
    assert choose_threshold([0.8, 0.9], [0.1, 0.4]) == pytest.approx(0.6)
    with pytest.raises(CalibrationError, match="max_false_alarms"):
        choose_threshold([0.8], [0.1], max_false_alarms=1.0)


def test_peak_score() -> None:
    values = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert peak_score(values, 2) == pytest.approx(0.7)
    assert peak_score(values, 5) == 0.0
