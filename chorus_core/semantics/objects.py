"""Objects: groups of labelled or matched points that hang together, with upright boxes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from chorus_core.semantics.connectivity import connected_groups
from chorus_core.semantics.vocabulary import STRUCTURE, Vocabulary

# Least edge of a box, metres: a flat thing still has a box one can draw and collide with.
_MIN_EDGE = 0.01


@dataclass(frozen=True)
class SceneObject:
    """A group of points taken to be one thing, in the world frame (z up).

    Attributes:
        label: its name, or the query it answers.
        score: median score of its points, in [0, 1].
        centroid: mean of its points, metres, float64 [3].
        box_center: centre of its upright box, metres, float64 [3].
        box_quat: rotation world_from_box, wxyz, about +z only, float64 [4].
        box_size: full edges along the box's axes, metres, float64 [3]; x is the longer horizontal one.
        count: number of points.
        indices: places of its points in the arrays given, ascending, int64 [count]; of an object of the map, slots.
        id: number in its map, the same for as long as the object is there; 0 where it has none.
        first_seen, last_seen: stamps of the first and the last frame that measured any of it, nanoseconds; 0 unknown.
    """

    label: str
    score: float
    centroid: np.ndarray
    box_center: np.ndarray
    box_quat: np.ndarray
    box_size: np.ndarray
    count: int
    indices: np.ndarray
    id: int = 0
    first_seen: int = 0
    last_seen: int = 0


def oriented_box(points: np.ndarray, trim: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The upright box about points: least-area rectangle of their ground plan, percentiles of their height.

    Args:
        points: metres, world frame with +z up [N, 3].
        trim: percent of points left out above and below.

    Returns:
        center [3] and size [3] in metres, quat world_from_box wxyz [4], float64; size[0] >= size[1] and the yaw is in
        [-pi/2, pi/2).

    Raises:
        ValueError: no points, or non-finite ones.
    """
    points = _check_points(points)
    if not len(points):
        raise ValueError("points is empty: expected at least one")
    # cv2 computes in float32: near the origin it keeps sub-millimetre accuracy wherever the map lies.
    origin = points.mean(0)
    (cx, cy), (width, depth), degrees = cv2.minAreaRect((points - origin)[:, :2].astype(np.float32))
    if width < depth:
        width, depth, degrees = depth, width, degrees + 90.0
    yaw = (np.radians(degrees) + np.pi / 2) % np.pi - np.pi / 2
    low, high = np.percentile(points[:, 2], (trim, 100.0 - trim))
    center = np.array([cx + origin[0], cy + origin[1], (low + high) / 2])
    size = np.maximum([width, depth, high - low], _MIN_EDGE)
    return center, size, np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])


def extract_objects(
    points: np.ndarray,
    scores: np.ndarray,
    label: str,
    *,
    gap: float,
    min_count: int,
    max_objects: int | None = None,
    indices: np.ndarray | None = None,
) -> list[SceneObject]:
    """Points that match one label or query, as objects, the best first.

    Args:
        points: metres [M, 3].
        scores: in [0, 1] [M].
        label: name given to every object.
        gap: points at most this far apart belong together, metres.
        min_count: smaller groups are left out.
        max_objects: how many at most; None for all.
        indices: places of the points in a larger array, int64 [M]; None counts the points themselves.

    Raises:
        ValueError: shapes differ, points are not finite, or gap or min_count is out of range.
    """
    points, scores = _check_points(points), np.asarray(scores)
    indices = np.arange(len(points)) if indices is None else np.asarray(indices, dtype=np.int64)
    for name, array in (("scores", scores), ("indices", indices)):
        if array.shape != (len(points),):
            raise ValueError(f"{name} has shape {array.shape}: expected ({len(points)},)")
    groups = connected_groups(points, gap, min_count)
    members = _members(groups)
    scored = sorted(((float(np.median(scores[m])), m) for m in members), key=lambda pair: (-pair[0], -len(pair[1])))
    return [make_object(label, scores[m], points[m], indices[m]) for _, m in scored[:max_objects]]


def objects_by_label(
    points: np.ndarray,
    labels: np.ndarray,
    confidence: np.ndarray,
    vocabulary: Vocabulary,
    *,
    gap: float,
    min_count: int,
    exclude: frozenset[str] = STRUCTURE,
) -> tuple[list[SceneObject], np.ndarray]:
    """The objects of a labelled map.

    Args:
        points: metres [N, 3].
        labels: ids into the vocabulary, integer [N]; others (such as 65535 or -1) are no label.
        confidence: in [0, 1] [N].
        vocabulary: names of the ids.
        gap: points of a label at most this far apart belong together, metres.
        min_count: smaller groups are left out.
        exclude: labels without objects (case does not matter); the building's by default.

    Returns:
        Objects, the largest first, and the place of each point's object among them, int32 [N]; -1 is none.

    Raises:
        ValueError: shapes differ, points are not finite, or gap or min_count is out of range.
    """
    points, labels, confidence = _check_points(points), np.asarray(labels), np.asarray(confidence)
    for name, array in (("labels", labels), ("confidence", confidence)):
        if array.shape != (len(points),):
            raise ValueError(f"{name} has shape {array.shape}: expected ({len(points)},)")
    skipped = {label.casefold() for label in exclude}
    objects: list[SceneObject] = []
    for rows in _members(labels.astype(np.int64)):
        label = int(labels[rows[0]])
        if label >= len(vocabulary) or vocabulary.labels[label].casefold() in skipped:
            continue
        objects += extract_objects(
            points[rows], confidence[rows], vocabulary.labels[label], gap=gap, min_count=min_count, indices=rows
        )
    objects.sort(key=lambda item: -item.count)
    instances = np.full(len(points), -1, dtype=np.int32)
    for i, item in enumerate(objects):
        instances[item.indices] = i
    return objects, instances


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """Places of the points of each group, ascending; points of no group (negative) are left out."""
    order = np.argsort(groups, kind="stable")
    order = order[np.searchsorted(groups[order], 0) :]
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []


def make_object(
    label: str,
    scores: np.ndarray,
    points: np.ndarray,
    indices: np.ndarray,
    *,
    id: int = 0,
    first_seen: int = 0,
    last_seen: int = 0,
) -> SceneObject:
    """The object that some points are; the other arguments are as its attributes.

    Args:
        scores: in [0, 1] [M].
        points: metres [M, 3].
        indices: places of the points in a larger array, int64 [M].
    """
    points = np.asarray(points, dtype=np.float64)
    center, size, quat = oriented_box(points)
    return SceneObject(
        label, float(np.median(scores)), points.mean(0), center, quat, size, len(points), np.sort(indices), id,
        first_seen, last_seen,
    )  # fmt: skip


def _check_points(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points has shape {points.shape}: expected (N, 3)")
    if not np.isfinite(points).all():
        raise ValueError("points hold non-finite values: expected metres")
    return points
