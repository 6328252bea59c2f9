"""Average precision of instances, by the protocol of the ScanNet benchmark (Dai et al. 2017)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLDS = tuple(np.round(np.arange(0.5, 0.95, 0.05), 2).tolist())
"""Overlaps that AP averages over: 0.50 to 0.90, as the benchmark's own code has it (0.95 is not among them)."""

MIN_POINTS = 100
"""Smaller predictions are dropped and smaller true instances are nothing to find; the benchmark's choice."""


@dataclass(frozen=True)
class SceneMatches:
    """One scene's predictions against its true instances: all that average precision needs.

    Attributes:
        iou: of predictions and true instances, float64 [P, G].
        predicted: class of each prediction [P].
        confidence: larger is surer [P].
        truth: class of each true instance [G].
        ignored: share of each prediction that lies on nothing that counts, in [0, 1] [P].
    """

    iou: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray


def match_scene(
    masks: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    segment: np.ndarray,
    instance: np.ndarray,
    min_points: int = MIN_POINTS,
    void: Collection[int] = (),
) -> SceneMatches:
    """Overlaps of one scene.

    A point is void where it has no class or no instance, or its class is in ``void``. A true instance takes the class
    of most of its points. For a prediction, points of too small instances of its class are void too.

    Args:
        masks: points of each prediction, bool [P, N]; they may overlap.
        predicted: class of each prediction [P].
        confidence: of each prediction [P].
        segment: true class of each point, -1 = ignore [N].
        instance: true instance of each point, -1 = ignore [N].
        min_points: predictions and instances of fewer points are left out.
        void: classes that are no instances, such as wall and floor.
    """
    masks = np.asarray(masks, dtype=bool).reshape(len(predicted), len(segment))
    kept = masks.sum(axis=1) >= max(min_points, 1)
    masks, predicted, confidence = masks[kept], np.asarray(predicted)[kept], np.asarray(confidence)[kept]
    counts = (segment >= 0) & (instance >= 0) & ~np.isin(segment, list(void))
    ids, row = np.unique(instance[counts], return_inverse=True)
    place = np.full(len(segment), len(ids))  # the last column gathers void points
    place[counts] = row
    shared = np.stack([np.bincount(place[mask], minlength=len(ids) + 1) for mask in masks]) if len(masks) else (
        np.zeros((0, len(ids) + 1), dtype=np.int64)
    )  # fmt: skip
    size = np.bincount(row, minlength=len(ids))
    classes = _majority(row, segment[counts], len(ids))
    small = size < min_points
    own_small = small[None] & (classes[None] == predicted[:, None])  # [P, G]
    in_void = shared[:, -1] + (shared[:, :-1] * own_small).sum(axis=1)
    area = masks.sum(axis=1)
    union = area[:, None] + size[None] - shared[:, :-1]
    iou = shared[:, :-1] / np.maximum(union, 1)
    return SceneMatches(iou[:, ~small], predicted, confidence, classes[~small], in_void / np.maximum(area, 1))


def average_precision(scenes: Sequence[SceneMatches], label: int, threshold: float) -> float:
    """Area under the precision over recall of one class over all scenes; NaN where the truth lacks the class.

    The surest prediction chooses first: the unclaimed true instance of its class that it overlaps most and by more than
    ``threshold``. One that overlaps only claimed instances is a duplicate, a false alarm. One that overlaps none is a
    false alarm too, unless more than ``threshold`` of it is void: then it is ignored. The curve has a point for each
    distinct confidence, begins at precision 1 for recall 0, and is integrated by the trapezoid rule.
    """
    total = sum(int((scene.truth == label).sum()) for scene in scenes)
    if not total:
        return float("nan")
    confidence, right = [], []
    for scene in scenes:
        for score, hit in _judge(scene, label, threshold):
            confidence.append(score)
            right.append(hit)
    if not confidence:
        return 0.0
    order = np.argsort(-np.array(confidence), kind="stable")
    scores, hits = np.array(confidence)[order], np.array(right, dtype=np.float64)[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # last prediction of each confidence
    found = np.cumsum(hits)[ends]
    precision = np.append(1.0, found / (ends + 1))
    recall = np.append(0.0, found / total)
    return float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum())


def instance_report(
    scenes: Sequence[SceneMatches], names: Sequence[str], groups: Mapping[str, Collection[str]] | None = None
) -> dict[str, Any]:
    """AP (mean over :data:`THRESHOLDS`), AP50 and AP25 of each class that the truth has, and means over classes.

    Returns:
        ``all`` and each group: ``map``, ``map50``, ``map25`` and ``classes`` (how many); and ``classes``: for each
        class ``ap``, ``ap50``, ``ap25`` and ``instances``.
    """
    rows = {}
    for i, name in enumerate(names):
        if instances := sum(int((scene.truth == i).sum()) for scene in scenes):
            rows[name] = {
                "ap": float(np.mean([average_precision(scenes, i, t) for t in THRESHOLDS])),
                "ap50": average_precision(scenes, i, 0.5),
                "ap25": average_precision(scenes, i, 0.25),
                "instances": instances,
            }

    def means(members: Collection[str]) -> dict[str, float]:
        chosen = [row for name, row in rows.items() if name in members]
        found = {f"m{key}": float(np.mean([r[key] for r in chosen])) if chosen else float("nan") for key in _KEYS}
        return {**found, "classes": len(chosen)}

    summary = {"all": means(names)} | {group: means(members) for group, members in (groups or {}).items()}
    return {"scenes": len(scenes), **summary, "classes": rows}


_KEYS = ("ap", "ap50", "ap25")


def _judge(scene: SceneMatches, label: int, threshold: float) -> list[tuple[float, bool]]:
    """Confidence of each prediction of a class that counts, and whether it is right."""
    wanted = np.flatnonzero(scene.truth == label)
    mine = np.flatnonzero(scene.predicted == label)
    claimed = np.zeros(len(scene.truth), dtype=bool)
    judged = []
    for i in mine[np.argsort(-scene.confidence[mine], kind="stable")]:
        near = wanted[scene.iou[i, wanted] > threshold]
        free = near[~claimed[near]]
        if len(free):
            claimed[free[scene.iou[i, free].argmax()]] = True
            judged.append((float(scene.confidence[i]), True))
        elif len(near) or scene.ignored[i] <= threshold:
            judged.append((float(scene.confidence[i]), False))
    return judged


def _majority(row: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The most frequent value of each of ``count`` rows; of equally many the lowest."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    classes = int(values.max()) + 1
    table = np.bincount(row * classes + values, minlength=count * classes).reshape(count, classes)
    return table.argmax(axis=1)
