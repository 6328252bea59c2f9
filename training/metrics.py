"""Accuracy of labels: a confusion matrix and the means that the field reports."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

STRUCTURE = ("wall", "floor", "ceiling")


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts [classes, classes]: truth in rows, prediction in columns; a negative prediction is a miss in no column.

    Args:
        truth: class of each point, negative = unlabelled (left out) [N].
        predicted: [N].
    """
    valid = truth >= 0
    table = np.zeros((classes, classes + 1), dtype=np.int64)
    column = np.where(predicted[valid] >= 0, predicted[valid], classes)
    np.add.at(table, (truth[valid], column), 1)
    return table


def iou_table(table: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, NaN for classes absent from the truth [classes]."""
    hits = np.diag(table[:, :-1]).astype(np.float64)
    truth = table.sum(axis=1)
    predicted = table[:, :-1].sum(axis=0)
    union = truth + predicted - hits
    return np.where(truth > 0, hits / np.maximum(union, 1), np.nan)


def accuracy_table(table: np.ndarray) -> np.ndarray:
    """Share of each class's points that are found, NaN for classes absent from the truth [classes]."""
    truth = table.sum(axis=1)
    return np.where(truth > 0, np.diag(table[:, :-1]) / np.maximum(truth, 1), np.nan)


def class_rows(table: np.ndarray, labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """IoU, accuracy and true points of each class that the truth has."""
    iou, accuracy, truth = iou_table(table), accuracy_table(table), table.sum(axis=1)
    return {
        label: {"iou": float(iou[i]), "accuracy": float(accuracy[i]), "points": int(truth[i])}
        for i, label in enumerate(labels)
        if truth[i] > 0
    }


def summarize(
    table: np.ndarray,
    labels: Sequence[str],
    only: Collection[str] | None = None,
    structure: Collection[str] = STRUCTURE,
) -> dict[str, float]:
    """mIoU and mean accuracy over classes present in the truth, with and without structure.

    Args:
        only: restrict the means to these labels.
        structure: labels that the foreground means leave out.
    """
    iou, accuracy, truth = iou_table(table), accuracy_table(table), table.sum(axis=1)
    chosen = np.array([only is None or label in only for label in labels])
    foreground = chosen & np.array([label not in structure for label in labels])

    def mean(values: np.ndarray, mask: np.ndarray) -> float:
        kept = values[mask & ~np.isnan(values)]
        return float(kept.mean()) if kept.size else float("nan")

    return {
        "miou": mean(iou, chosen),
        "f_miou": mean(iou, foreground),
        "macc": mean(accuracy, chosen),
        "f_macc": mean(accuracy, foreground),
        "classes": int((chosen & (truth > 0)).sum()),
    }
