"""Cutting prepared scenes into windows a training step can hold, and giving Gaussians the labels of points."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from chorus_core.gaussians import Gaussians
from training.datasets.base import LabelledPoints
from training.prepared import LiftedFeatures, PreparedScene

logger = logging.getLogger(__name__)

_SLACK = 1e-6  # metres by which rounding may push a Gaussian over the border of the last window


WINDOW = (6.0, 6.0, math.inf)
"""Extent of a chunk in x, y and z, metres; infinite = uncut. The releases cut Matterport3D's houses at (6, 6, 4)."""

STRIDE = (4.0, 4.0, math.inf)
"""Step between chunks, metres."""


def chunks(
    scene: PreparedScene,
    window: float | Sequence[float] = WINDOW,
    stride: float | Sequence[float] = STRIDE,
    minimum: int = 50_000,
    grid: float = 0.0,
    heads: Sequence[str] = (),
) -> Iterator[PreparedScene]:
    """Cut a scene into overlapping windows (SceneSplat, Li et al. 2025; Chorus).

    Windows are spread evenly over the scene's extent, no further apart than the stride, so that the last one ends with
    the scene. One that holds too few Gaussians is dropped where its Gaussians are all in other windows too, and else
    merged with the window nearest to it, which is then larger than ``window``. So every Gaussian (that thinning
    keeps) of a scene with ``minimum`` of them is in a chunk, and every chunk has as many. A scene with fewer
    gives none, and a warning.

    A scene that stays whole keeps its name; chunks of others are called ``<scene>_<number>``, their facts have
    ``scene``. Feature tables keep the rows that a chunk uses.

    Args:
        scene: on the CPU.
        window: extent in x, y and z, metres; one number is that of x and y, with z uncut.
        stride: step between windows, metres, as ``window``; at most the window, so that nothing falls between two.
        minimum: fewest Gaussians of a chunk.
        grid: edge of the cells that keep one Gaussian each, metres; 0 = keep all.
        heads: whose features decide, in this order, which Gaussian of a cell is kept; see :func:`thin`.

    Raises:
        ValueError: a parameter out of range.
    """
    window, stride = _extents(window), _extents(stride)
    if not all(0 < step <= extent for step, extent in zip(stride, window, strict=True)):
        raise ValueError(f"chunks of {window} m, stride {stride} m: expected 0 < stride <= window on each axis")
    if minimum < 1:
        raise ValueError(f"minimum = {minimum}: expected at least 1 Gaussian a chunk")
    if not (grid >= 0 and math.isfinite(grid)):
        raise ValueError(f"grid = {grid}: expected metres >= 0")
    rows = torch.arange(len(scene.gaussians)) if grid == 0 else thin(scene, grid, heads)
    if len(rows) < minimum:
        logger.warning("%s: %d Gaussians, fewer than the minimum of %d: no chunk", scene.info.name, len(rows), minimum)
        return
    parts = windows(scene.gaussians.means[rows].numpy().astype(np.float64), window, stride, minimum)
    for number, part in enumerate(parts):
        chunk = take(scene, rows[torch.from_numpy(part)])
        if len(parts) > 1:
            facts = {**scene.info.facts, "scene": scene.info.name}
            chunk = replace(chunk, info=replace(scene.info, name=f"{scene.info.name}_{number:03d}", facts=facts))
        yield chunk


def thin(scene: PreparedScene, cell: float, heads: Sequence[str] = ()) -> Tensor:
    """One Gaussian of each cell of a grid: one with features of the first head, else of the second and so on, else
    any; of these the most opaque, of these the first.

    Args:
        scene: on the CPU.
        cell: edge, metres.
        heads: of ``scene.features``.

    Returns:
        Which Gaussians stay, ascending, int64 [K].

    Raises:
        KeyError: a head that the scene has no features of.
    """
    cells = np.floor(scene.gaussians.means.numpy().astype(np.float64) / cell).astype(np.int64)
    if not len(cells):
        return torch.zeros(0, dtype=torch.int64)
    lacks = [(scene.features[head].index < 0).numpy() for head in heads]
    order = np.lexsort((-scene.gaussians.opacities.numpy(), *reversed(lacks), *cells.T))
    first = np.ones(len(order), bool)
    first[1:] = (cells[order][1:] != cells[order][:-1]).any(axis=1)
    return torch.from_numpy(np.sort(order[first]))


def windows(points: np.ndarray, window: Sequence[float], stride: Sequence[float], minimum: int) -> list[np.ndarray]:
    """Rows of the points of each window, ascending, by lowest corner; see :func:`chunks` for which are kept.

    Args:
        points: metres, float64 [N, 3].
        window: extent, metres [3].
        stride: step, metres [3].
        minimum: fewest points of a window, 1 or more. With fewer points in all there is one window.
    """
    if not len(points):
        return []
    bounds = list(zip(points.min(axis=0), points.max(axis=0), window, stride, strict=True))
    parts = [np.arange(len(points))]
    for axis, bound in enumerate(bounds):
        parts = [part[inside] for part in parts for inside in _slices(points[part, axis], *bound)]
    return _merged([np.sort(part) for part in parts], points, minimum)


def take(scene: PreparedScene, rows: Tensor) -> PreparedScene:
    """Some Gaussians of a scene [K] with all that belongs to them; feature tables keep the rows in use."""
    features: Mapping[str, LiftedFeatures] = {name: _compact(lifted[rows]) for name, lifted in scene.features.items()}
    arrays = (scene.normals[rows], scene.segment[rows], scene.instance[rows])
    seen = None if scene.seen is None else scene.seen[rows]
    return PreparedScene(scene.info, scene.gaussians[rows], *arrays, features, seen)


def label_gaussians(gaussians: Gaussians, labelled: LabelledPoints, reach: float = 0.1) -> tuple[Tensor, Tensor]:
    """Class and instance of the labelled point nearest to each Gaussian's centre.

    Points marked as ignored take part: what lies nearest to them is ignored too, rather than taking the label of a
    neighbour of another kind.

    Args:
        gaussians: N of them.
        labelled: in the same world frame.
        reach: metres; Gaussians without a point within it are ignored.

    Returns:
        segment and instance, -1 = ignore, int64 [N], on the CPU.
    """
    nearest = np.full(len(gaussians), len(labelled.points), np.int64)  # one past the last: no point
    if len(gaussians) and len(labelled.points):
        # the bound of the tree is exclusive
        bound = np.nextafter(reach, math.inf)
        nearest = cKDTree(labelled.points).query(gaussians.means.cpu().numpy(), distance_upper_bound=bound)[1]
    segment, instance = (np.append(values, -1)[nearest] for values in (labelled.segment, labelled.instance))
    return torch.from_numpy(segment.astype(np.int64)), torch.from_numpy(instance.astype(np.int64))


def _extents(values: float | Sequence[float]) -> tuple[float, float, float]:
    if isinstance(values, int | float):
        return float(values), float(values), math.inf
    x, y, z = values
    return float(x), float(y), float(z)


def _slices(values: np.ndarray, low: float, high: float, window: float, stride: float) -> Iterator[np.ndarray]:
    """Places of the values [N] in each window of an axis that spans ``low`` to ``high``; empty windows are left out."""
    count = 1 if high - low <= window else math.ceil((high - low - window) / stride) + 1
    starts = np.linspace(low, high - window, count) if count > 1 else np.array([low])
    order = np.argsort(values, kind="stable")
    first = np.searchsorted(values[order], starts - _SLACK)
    last = np.searchsorted(values[order], starts + window + _SLACK, side="right")
    for k in np.flatnonzero(last > first):
        yield order[first[k] : last[k]]


def _merged(parts: list[np.ndarray], points: np.ndarray, minimum: int) -> list[np.ndarray]:
    """Windows of ``minimum`` points at least: the smallest too small one is dropped or merged, until none is left."""
    centers = np.array([_center(points[part]) for part in parts])
    sizes = np.array([len(part) for part in parts])
    holders = np.zeros(len(points), np.int64)  # how many windows hold each point
    for part in parts:
        holders[part] += 1
    left = np.ones(len(parts), bool)
    while left.sum() > 1:
        smallest = int(np.where(left, sizes, len(points) + 1).argmin())
        if sizes[smallest] >= minimum:
            break
        left[smallest] = False
        holders[parts[smallest]] -= 1
        if holders[parts[smallest]].min() > 0:
            continue
        distances = np.linalg.norm(centers - centers[smallest], axis=1)
        near = int(np.where(left, distances, np.inf).argmin())
        holders[parts[near]] -= 1
        parts[near] = np.union1d(parts[near], parts[smallest])
        holders[parts[near]] += 1
        sizes[near], centers[near] = len(parts[near]), _center(points[parts[near]])
    return [part for part, stays in zip(parts, left, strict=True) if stays]


def _center(points: np.ndarray) -> np.ndarray:
    return (points.min(axis=0) + points.max(axis=0)) / 2


def _compact(lifted: LiftedFeatures) -> LiftedFeatures:
    """The same features with a table of the rows in use."""
    used, place = torch.unique(lifted.index, return_inverse=True)
    ignored = int((used < 0).sum())
    return LiftedFeatures(lifted.table[used[ignored:]], torch.where(lifted.index < 0, -1, place - ignored))
