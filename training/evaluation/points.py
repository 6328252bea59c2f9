"""Ground-truth points of a prepared scene, and predictions carried to them by the vote of neighbours.

``points.npz`` beside the arrays of a scene is optional: ``points`` (metres, float32 [M, 3]), ``segment`` and
``instance`` (int32 [M], -1 = ignore). Classes and instances are those of ``scene.json``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from chorus_core.io.arrays import read_npz
from chorus_core.io.atomic import atomic_path
from chorus_core.io.scene_folder import SceneFolderError
from training.datasets.base import LabelledPoints
from training.prepared import SceneInfo

POINTS_FILE = "points.npz"
_VOTE_ROWS = 16_384


def save_points(folder: str | Path, points: LabelledPoints) -> None:
    """Write ``points.npz`` into the folder of a prepared scene whose ``scene.json`` names the classes.

    Raises:
        SceneFolderError: lengths differ, or points are not finite.
    """
    _check(Path(folder) / POINTS_FILE, points.points, points.segment, points.instance)
    with atomic_path(Path(folder) / POINTS_FILE) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            points=points.points.astype(np.float32),
            segment=points.segment.astype(np.int32),
            instance=points.instance.astype(np.int32),
        )


def load_points(folder: str | Path, info: SceneInfo) -> LabelledPoints | None:
    """The labelled points of a prepared scene; None where it has none.

    Raises:
        SceneFolderError: the file is malformed.
    """
    path = Path(folder) / POINTS_FILE
    if not path.is_file():
        return None
    try:
        data = read_npz(path, ("points", "segment", "instance"), error=SceneFolderError)
    except OSError as error:
        raise SceneFolderError(f"{path}: {error.strerror}") from error
    points, segment, instance = data["points"], data["segment"], data["instance"]
    _check(path, points, segment, instance)
    return LabelledPoints(
        points.astype(np.float32), segment.astype(np.int64), instance.astype(np.int64), info.classes, info.instances
    )


def vote_of_neighbours(points: np.ndarray, labels: np.ndarray, wanted: np.ndarray, k: int = 25) -> np.ndarray:
    """The label that most of the k nearest labelled points have; of equally many, the nearest one's.

    Args:
        points: metres [N, 3].
        labels: integer, negative = not valid, takes no part [N].
        wanted: metres [M, 3].
        k: neighbours that vote; all where there are fewer.

    Returns:
        int64 [M], -1 where no point is valid.
    """
    valid = labels >= 0
    if not valid.any() or not len(wanted):
        return np.full(len(wanted), -1, dtype=np.int64)
    tree, labels = cKDTree(points[valid]), labels[valid].astype(np.int64)
    k = min(k, len(labels))
    out = np.empty(len(wanted), dtype=np.int64)
    for start in range(0, len(wanted), _VOTE_ROWS):
        rows = slice(start, start + _VOTE_ROWS)
        votes = labels[tree.query(wanted[rows], k=[*range(1, k + 1)], workers=-1)[1]]  # [R, k], nearest first
        counts = np.stack([(votes == votes[:, i : i + 1]).sum(axis=1) for i in range(k)], axis=1)
        out[rows] = votes[np.arange(len(votes)), counts.argmax(axis=1)]  # argmax takes the first, the nearest
    return out


def vote_in_instances(labels: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Predictions replaced by the majority within each TRUE instance, as upstream's evaluation does.

    This tells the method the shape of every object: figures after it are not comparable with honest ones.

    Args:
        labels: predictions, negative = none, takes no part [N].
        instance: ground truth; points of none (negative) keep their prediction [N].

    Returns:
        int64 [N]; of equally many the lowest label.
    """
    out = labels.astype(np.int64)
    voting = (instance >= 0) & (labels >= 0)
    if not voting.any():
        return out
    ids, row = np.unique(instance[voting], return_inverse=True)
    classes = int(labels.max()) + 1
    counts = np.bincount(row * classes + labels[voting], minlength=len(ids) * classes).reshape(len(ids), classes)
    place = np.searchsorted(ids, instance).clip(max=len(ids) - 1)
    return np.where(ids[place] == instance, counts.argmax(axis=1)[place], out)


def _check(path: Path, points: np.ndarray, segment: np.ndarray, instance: np.ndarray) -> None:
    count = len(points)
    if points.shape != (count, 3) or segment.shape != (count,) or instance.shape != (count,):
        raise SceneFolderError(
            f"{path}: points {points.shape}, segment {segment.shape}, instance {instance.shape}: "
            "expected (M, 3), (M,), (M,)"
        )
    if not np.isfinite(points).all():
        raise SceneFolderError(f"{path}: points hold non-finite values: expected metres")
