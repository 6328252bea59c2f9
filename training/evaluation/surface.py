"""A labelled ground-truth surface, and labels carried between point sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from chorus_core.io.arrays import read_npz
from chorus_core.io.documents import read_json
from chorus_core.io.errors import ReadError, reading


class SurfaceError(ReadError):
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
            tree = read_json(folder / "ground_truth.json", error=SurfaceError)
            data = read_npz(folder / "ground_truth.npz", ("points_mm", "instance"), error=SurfaceError)
        except OSError as error:
            raise SurfaceError(f"{folder}: expected ground_truth.npz and ground_truth.json ({error})") from error
        with reading(folder, SurfaceError):
            points, instance = data["points_mm"].astype(np.float32) / 1000, data["instance"].astype(np.int64)
            labels = tuple(tree["labels"])
            of_instance = np.array([labels.index(i["label"]) for i in tree["instances"]], np.int64)
            held_back = frozenset(tree["held_back_labels"])
        known = instance.ndim == 1 and (not len(instance) or 0 <= instance.min() <= instance.max() < len(of_instance))
        if not known or points.shape != (len(instance), 3):
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
