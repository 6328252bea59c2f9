"""Is it there? Scores of whole scenes for a query, as the pipeline decides between objects and "nothing"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from chorus_core.config import SemanticsConfig
from chorus_core.pipeline import Pipeline
from training.evaluation.surface import LabelledSurface, carry_labels


def object_gap(voxel_size: float) -> float:
    """How far apart neighbours of an object may be in a map of that voxel size, metres: the pipeline's default, and
    never less than a voxel that is missing in between."""
    return max(SemanticsConfig().object_gap, 2.5 * voxel_size)


def object_score(points: np.ndarray, scores: np.ndarray, gap: float, count: int) -> float:
    """The highest threshold at which the points above it still hold an object.

    Args:
        points: metres [N, 3].
        scores: relevancy [N].
        gap: points at most this far apart belong together, metres.
        count: points that make an object.

    Returns:
        A score s such that ``scores >= s`` has a connected group of ``count`` points and no higher score does; -1
        where there is none at any threshold.
    """
    order = np.argsort(-scores, kind="stable")
    # Groups only grow with the number of points taken: double until there is an object, then bisect.
    low, high = count - 1, count
    while True:
        pairs = _near_pairs(points[order[:high]], gap)
        if high <= len(order) and _has_group(pairs, high, count):
            break
        if high >= len(order):
            return -1.0
        low, high = high, min(2 * high, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _has_group(pairs, middle, count) else (middle, high)
    return float(scores[order[high - 1]])


def _near_pairs(points: np.ndarray, gap: float) -> np.ndarray:
    """Places of all pairs of points within the gap, int64 [P, 2], the smaller place first."""
    return cKDTree(points).query_pairs(gap, output_type="ndarray") if len(points) else np.zeros((0, 2), np.int64)


def _has_group(pairs: np.ndarray, n: int, count: int) -> bool:
    """Whether the first ``n`` points hold a group of ``count``."""
    a, b = pairs[pairs[:, 1] < n].T
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    return bool(np.bincount(connected_components(graph, directed=False)[1]).max() >= count)


@dataclass(frozen=True)
class Answer:
    """What the pipeline said to a query.

    Attributes:
        text: the query.
        objects: how many it found.
        score: of the best one; 0 where there is none.
        truth: label of most of the best object's points on the ground-truth surface; empty where there is none.
    """

    text: str
    objects: int
    score: float
    truth: str


def ask(pipeline: Pipeline, texts: Sequence[str], surface: LabelledSurface | None, reach: float) -> list[Answer]:
    """Query the pipeline's map with each text at its calibrated threshold.

    Args:
        surface: tells what the best object really is; None leaves ``truth`` empty.
        reach: metres from a Gaussian to the surface at most.
    """
    answers = []
    for text in texts:
        result = pipeline.query(text)
        best = result.objects[0] if result.objects else None
        truth = ""
        if best is not None and surface is not None:
            carried = carry_labels(surface.points, surface.label, result.points[best.indices], reach)
            known = carried[carried >= 0]
            truth = surface.labels[np.bincount(known).argmax()] if len(known) else ""
        answers.append(Answer(text, len(result.objects), 0.0 if best is None else best.score, truth))
    return answers
