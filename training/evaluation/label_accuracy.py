"""Label accuracy of a mapped recording against its labelled surface."""

from __future__ import annotations

from typing import Any

import numpy as np

from chorus_core.semantics.labelled_map import LabelledMap
from training.evaluation.surface import LabelledSurface, carry_labels
from training.metrics import confusion, iou_table, summarize


def label_accuracy(labelled: LabelledMap, surface: LabelledSurface, reach: float) -> dict[str, Any]:
    """Every ground-truth point takes the label of the nearest Gaussian within ``reach`` metres.

    Labels of the vocabulary that the recording does not have are wrong wherever they are predicted.

    Returns:
        ``reached`` (share of points with a Gaussian); for ``reached_points`` and ``all_points`` (unreached ones are
        misses) the means over ``all``, ``seen`` and ``held_back`` labels, each as
        :func:`~training.metrics.summarize` gives them; ``iou`` of each label over reached points, and ``confused``,
        the label most points of each label were taken for instead.
    """
    # Columns: the recording's labels first, then the rest of the vocabulary.
    place = {label: i for i, label in enumerate(surface.labels)}
    for label in labelled.vocabulary.labels:
        place.setdefault(label, len(place))
    to_place = np.array([place[label] for label in labelled.vocabulary.labels])
    predicted = labelled.labels.cpu().numpy()
    predicted = np.where(predicted >= 0, to_place[predicted], -1)
    carried = carry_labels(labelled.gaussians.means.cpu().numpy(), predicted, surface.points, reach)
    reached = carried >= 0
    labels = tuple(place)
    seen = frozenset(surface.labels) - surface.held_back
    groups = {"all": None, "seen": seen, "held_back": surface.held_back}
    report: dict[str, Any] = {"reached": float(reached.mean()), "vocabulary": len(labelled.vocabulary)}
    table = confusion(surface.label[reached], carried[reached], len(labels))
    whole = confusion(surface.label, carried, len(labels))
    for name, counts in (("reached_points", table), ("all_points", whole)):
        report[name] = {group: summarize(counts, labels, only) for group, only in groups.items()}
    iou = iou_table(table)
    report["iou"] = {label: round(float(iou[i]), 4) for label, i in place.items() if not np.isnan(iou[i])}
    report["confused"] = {label: _confused(table, labels, i) for label, i in place.items() if not np.isnan(iou[i])}
    return report


def _confused(table: np.ndarray, labels: tuple[str, ...], row: int) -> str:
    others = table[row, :-1].copy()
    others[row] = 0
    return f"{labels[int(others.argmax())]} {others.max() / max(1, table[row].sum()):.0%}" if others.any() else ""
