"""A labelled ground-truth surface, and labels carried between point sets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree


class SurfaceError(ValueError):
    """Ground truth that cannot be used; the message names the file, the field and what is wrong."""


@dataclass(frozen=True)
class LabelledSurface:
    """Points on what a camera has seen, each with the label of its instance.

    Attributes:
        points: metres, frame of the recording, float32 [N, 3].
        label: place in ``labels``, int64 [N].
        instance: int64 [N].
        labels: all labels of the recording.
        held_back: those of them that training never saw.
    """

    points: np.ndarray
    label: np.ndarray
    instance: np.ndarray
    labels: tuple[str, ...]
    held_back: frozenset[str]

    @classmethod
    def load(cls, folder: str | Path) -> LabelledSurface:
        """``ground_truth.npz`` and ``ground_truth.json`` of a folder, as ``training.render_house`` writes them.

        Raises:
            SurfaceError: a file is missing, or lacks a field.
        """
        folder = Path(folder)
        try:
            tree = json.loads((folder / "ground_truth.json").read_text(encoding="utf-8"))
            with np.load(folder / "ground_truth.npz") as data:
                points, instance = data["points_mm"].astype(np.float32) / 1000, data["instance"].astype(np.int64)
            labels = tuple(tree["labels"])
            of_instance = np.array([labels.index(i["label"]) for i in tree["instances"]])
            held_back = frozenset(tree["held_back_labels"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise SurfaceError(f"{folder}: expected ground_truth.npz and ground_truth.json ({error})") from error
        if points.shape != (len(instance), 3) or (len(instance) and instance.max() >= len(of_instance)):
            raise SurfaceError(f"{folder}: points {points.shape}, {len(of_instance)} instances: do not fit together")
        return cls(points, of_instance[instance], instance, labels, held_back)


def carry_labels(points: np.ndarray, labels: np.ndarray, wanted: np.ndarray, reach: float) -> np.ndarray:
    """The label of the nearest point, for other points.

    Args:
        points: metres [N, 3].
        labels: integer [N].
        wanted: metres [M, 3].
        reach: metres; farther away there is none.

    Returns:
        int64 [M], -1 where none is within reach.
    """
    if not len(points) or not len(wanted):
        return np.full(len(wanted), -1, dtype=np.int64)
    distance, nearest = cKDTree(points).query(wanted, distance_upper_bound=reach, workers=2)
    found = np.isfinite(distance)
    return np.where(found, labels[np.where(found, nearest, 0)], -1).astype(np.int64)
