"""From similarities to probabilities, and from probabilities to a threshold that can answer "nothing"."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


class CalibrationError(ValueError):
    """Scores that no calibration or threshold can be taken from."""


@dataclass(frozen=True)
class Calibration:
    """A logistic map from the evidence for a query to the probability that the thing is there.

    ``p = sigmoid(scale * (f.t - contrast * max_i f.n_i - commonness * mean_j t.w_j) + offset)`` for a feature f, a
    text t, negatives n_i and ordinary names w_j.

    Attributes:
        scale: > 0; how fast the probability rises with the similarity.
        offset: log-odds at no evidence.
        contrast: how much of the similarity to the best negative is taken off.
        commonness: how much of the text's mean similarity to ordinary names is taken off.

    Raises:
        CalibrationError: a value is out of range.
    """

    scale: float
    offset: float
    contrast: float = 1.0
    commonness: float = 0.0

    def __post_init__(self) -> None:
        values = (self.scale, self.offset, self.contrast, self.commonness)
        if not all(math.isfinite(value) for value in values) or self.scale <= 0:
            raise CalibrationError(
                f"calibration scale, offset, contrast, commonness = {values}: expected finite values and scale > 0"
            )

    def __call__(self, evidence: Tensor) -> Tensor:
        """Probabilities [N] of evidence [N, 3], as :func:`~chorus_core.semantics.relevancy.query_evidence` gives it."""
        margin = evidence[:, 0] - self.contrast * evidence[:, 1] - self.commonness * evidence[:, 2]
        return torch.sigmoid(self.scale * margin + self.offset)


def fit_calibration(evidence_present: ArrayLike, evidence_absent: ArrayLike, *, ridge: float = 1e-3) -> Calibration:
    """Logistic regression of "present" on evidence (Platt 1999), both classes of equal weight, by Newton in float64.

    Args:
        evidence_present: rows of :func:`~chorus_core.semantics.relevancy.query_evidence` where the queried thing is
            [P, 3]; bare similarities [P] fit scale and offset only.
        evidence_absent: where it is not [A, 3] or [A].
        ridge: penalty on the standardised weights; keeps them finite where the classes do not overlap.

    Raises:
        CalibrationError: a class is empty, not finite or of the wrong shape, or present things are not more similar.
    """
    present, absent = _evidence("evidence_present", evidence_present), _evidence("evidence_absent", evidence_absent)
    x = np.concatenate([present, absent])  # [n, 3]
    mean, spread = x.mean(0), x.std(0)
    # A column that does not vary says nothing (and its weight stays 0).
    spread = np.where(spread > 1e-9, spread, np.inf)
    design = np.c_[(x - mean) / spread, np.ones(len(x))]  # [n, 4]
    # Platt's targets: a finite sample never warrants a probability of exactly 0 or 1.
    high, low = (len(present) + 1) / (len(present) + 2), 1 / (len(absent) + 2)
    target = np.repeat([high, low], [len(present), len(absent)])
    weight = np.repeat([0.5 / len(present), 0.5 / len(absent)], [len(present), len(absent)])
    solution = _logistic_regression(design, target, weight, np.diag([ridge, ridge, ridge, 0.0]))
    scale, negative, common = (solution[:3] / spread).tolist()
    if scale <= 1e-9:
        raise CalibrationError(
            f"present things have similarity {present[:, 0].mean():.3f} on average and absent ones "
            f"{absent[:, 0].mean():.3f}: expected present things to be more similar"
        )
    offset = float(solution[3] - (solution[:3] / spread) @ mean)
    return Calibration(scale, offset, contrast=-negative / scale, commonness=-common / scale)


def _logistic_regression(design: np.ndarray, target: np.ndarray, weight: np.ndarray, penalty: np.ndarray) -> np.ndarray:
    """Penalised weighted logistic regression by Newton with step halving: design [n, k] -> parameters [k]."""

    def loss(parameters: np.ndarray) -> float:
        logits = design @ parameters
        return float(weight @ (np.logaddexp(0, logits) - target * logits) + 0.5 * parameters @ penalty @ parameters)

    parameters = np.zeros(design.shape[1])
    for _ in range(100):
        probability = 0.5 * (1 + np.tanh(0.5 * design @ parameters))
        gradient = design.T @ (weight * (probability - target)) + penalty @ parameters
        curvature = design.T @ (design * (weight * probability * (1 - probability))[:, None]) + penalty
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(parameters)), gradient)
        length, before = 1.0, loss(parameters)
        while loss(parameters - length * step) > before and length > 1e-8:
            length /= 2
        parameters = parameters - length * step
        if np.abs(length * step).max() < 1e-10:
            break
    return parameters


def choose_threshold(
    scores_present: ArrayLike, scores_absent: ArrayLike, *, max_false_alarms: float | None = None
) -> float:
    """The threshold (present: score >= threshold) between two sets of scores.

    Args:
        scores_present: e.g. :func:`peak_score` of queries for things that are in the scene [P].
        scores_absent: of queries for things that are not [A].
        max_false_alarms: highest share of absent queries let through, in [0, 1); the lowest such threshold is taken.
            None maximises the mean of hit rate and rejection rate (Youden 1950) instead.

    Returns:
        A threshold half way between neighbouring scores; of equally good ones the middle of the widest gap.

    Raises:
        CalibrationError: a class is empty or not finite, or ``max_false_alarms`` is out of range.
    """
    present = np.sort(_scores("scores_present", scores_present))
    absent = np.sort(_scores("scores_absent", scores_absent))
    if max_false_alarms is not None and not 0 <= max_false_alarms < 1:
        raise CalibrationError(f"max_false_alarms = {max_false_alarms}: expected a value in [0, 1)")
    values = np.unique(np.concatenate([present, absent]))
    edges = np.concatenate([[values[0]], values, [np.nextafter(values[-1], np.inf)]])
    candidates = (edges[:-1] + edges[1:]) / 2  # below all, between neighbours, above all
    candidates[0], candidates[-1] = edges[0], edges[-1]
    gaps = np.diff(edges)
    false_alarms = 1 - np.searchsorted(absent, candidates, side="left") / len(absent)
    if max_false_alarms is not None:
        return float(candidates[np.flatnonzero(false_alarms <= max_false_alarms)[0]])
    hits = 1 - np.searchsorted(present, candidates, side="left") / len(present)
    quality = hits - false_alarms
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(candidates[best[np.argmax(gaps[best])]])


def peak_score(scores: Tensor, count: int = 15) -> float:
    """The ``count``-th highest score [N] of a scene: an object's worth of points reach it. 0 where there are fewer."""
    if len(scores) < count:
        return 0.0
    return float(torch.topk(scores, count).values[-1])


def _evidence(name: str, values: ArrayLike) -> np.ndarray:
    """Evidence as float64 [n, 3]; bare similarities get two columns of zeros."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        array = np.c_[array, np.zeros((len(array), 2))]
    if array.ndim != 2 or array.shape[1] != 3:
        raise CalibrationError(f"{name} has shape {array.shape}: expected (n, 3) or (n,)")
    _scores(name, array)
    return array


def _scores(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64).ravel()
    if not len(array):
        raise CalibrationError(f"{name} is empty: expected at least one score")
    if not np.isfinite(array).all():
        raise CalibrationError(f"{name} holds non-finite values: expected finite scores")
    return array
