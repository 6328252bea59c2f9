"""The answer to a text: a function of what is searched, the text side of its features, and the question."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from torch import Tensor

from chorus_core.config import SemanticsConfig
from chorus_core.semantics.objects import SceneObject, extract_objects
from chorus_core.semantics.query_text import QueryError, check_query
from chorus_core.semantics.text_side import TextSide


@dataclass(frozen=True)
class Matches:
    """Gaussians that agree with a text.

    Attributes:
        points: centres, metres, float32 [M, 3].
        colors: RGB, uint8 [M, 3].
        scores: relevancy, in [0, 1], float32 [M].
        objects: number of the object of the map that each belongs to, 0 for none, integer [M].
        first_seen, last_seen: stamps, nanoseconds, int64 [M].
    """

    points: np.ndarray
    colors: np.ndarray
    scores: np.ndarray
    objects: np.ndarray
    first_seen: np.ndarray
    last_seen: np.ndarray


class Searchable(Protocol):
    """What can be asked: a live map, or a copy of one."""

    stamp: int
    """Of the last frame that what is searched knows of, nanoseconds."""
    map_id: str

    def matching(self, score: Callable[[Tensor], Tensor], threshold: float) -> Matches | None:
        """The Gaussians that score enough; None where nothing is encoded yet.

        Args:
            score: relevancy [N] of features [N, d].
        """


@dataclass
class QueryResult:
    """Answer to a text query.

    Attributes:
        text: as it was understood.
        threshold: relevancy that counted as a match.
        objects: groups of matching Gaussians, best first; empty where nothing matches. Their ``indices`` are places in
            ``points``; their ``id`` is that of the map's object which holds at least half of them, 0 where none does.
        points: centres of the matching Gaussians that belong to objects, metres, float32 [M, 3].
        colors: of these, uint8 [M, 3].
        scores: relevancy of these, in [0, 1], float32 [M].
        map_stamp: of the map asked, nanoseconds.
        map_id: of the map asked.
        seconds: taken.
    """

    text: str
    threshold: float
    objects: list[SceneObject]
    points: np.ndarray
    colors: np.ndarray
    scores: np.ndarray
    map_stamp: int
    map_id: str
    seconds: float


def answer_query(
    searched: Searchable,
    side: TextSide,
    config: SemanticsConfig,
    text: str,
    negatives: Sequence[str] = (),
    threshold: float = 0.0,
    max_objects: int = 0,
) -> QueryResult:
    """Where a map agrees with a text.

    Args:
        searched: the map.
        side: of the model that made its features.
        config: limits, and what 0 stands for.
        text: anything; it is encoded, never interpreted otherwise.
        negatives: texts that a match must beat besides the generic ones.
        threshold: relevancy that counts, 0 for the configured or else the model's calibrated one.
        max_objects: 0 for the configured number.

    Raises:
        QueryError: empty, too long or unprintable text, numbers out of range, or nothing is encoded yet.
    """
    began = time.perf_counter()
    text = check_query(text, config.max_query_chars)
    negatives = [check_query(n, config.max_query_chars, f"negative text {place}") for place, n in enumerate(negatives)]
    limits = check_limits(threshold, max_objects)
    threshold = limits[0] or config.threshold or side.threshold
    stamp, map_id = searched.stamp, searched.map_id
    found = searched.matching(side.scorer(text, negatives), threshold)
    if found is None:  # not the same as "it is not there"
        raise QueryError("nothing of the map is encoded yet: ask again when it is")
    objects = extract_objects(
        found.points, found.scores, text, gap=config.object_gap, min_count=config.min_object_gaussians,
        max_objects=limits[1] or config.max_objects,
    )  # fmt: skip
    members = np.concatenate([o.indices for o in objects]) if objects else np.empty(0, np.int64)
    ends = np.cumsum([o.count for o in objects])
    objects = [
        replace(_identified(item, found), indices=np.arange(end - item.count, end))
        for item, end in zip(objects, ends, strict=True)
    ]
    return QueryResult(
        text, float(threshold), objects, found.points[members].astype(np.float32), found.colors[members],
        found.scores[members].astype(np.float32), stamp, map_id, time.perf_counter() - began,
    )  # fmt: skip


def _identified(item: SceneObject, found: Matches) -> SceneObject:
    """An answer with the number of the map's object that it is, and when any of it was seen."""
    numbers, counts = np.unique(found.objects[item.indices], return_counts=True)
    most = int(counts.argmax())
    return replace(
        item,
        id=int(numbers[most]) if 2 * int(counts[most]) >= item.count else 0,
        first_seen=int(found.first_seen[item.indices].min()),
        last_seen=int(found.last_seen[item.indices].max()),
    )


def check_limits(threshold: float, max_objects: int) -> tuple[float, int]:
    """Numbers of a query, checked; raises QueryError naming the one out of range."""
    if not np.isfinite(threshold) or not 0.0 <= threshold <= 1.0:
        raise QueryError(f"threshold {threshold}: expected a number in [0, 1] (0 for the calibrated default)")
    if max_objects < 0:
        raise QueryError(f"max_objects {max_objects}: expected 0 (default) or more")
    return float(threshold), int(max_objects)
