"""InteriorGS (SpatialVerse, Manycore Tech 2025): scenes that are Gaussians already, with a box around each object."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from chorus_core.io.gaussian_ply import load_gaussians
from training.datasets.base import DatasetError, LabelledPoints, SceneSource
from training.datasets.files import SUBSETS, class_names, listed_scenes, read_json, require_folder
from training.prepared import InstanceInfo

logger = logging.getLogger(__name__)

_GAUSSIANS, _LABELS, _STRUCTURE = "3dgs_compressed.ply", "labels.json", "structure.json"
_COLLINEAR = 1e-3  # cosine between two edges of a box that still counts as a right angle


@dataclass(frozen=True)
class Box:
    """An oriented box.

    Attributes:
        category: label of the thing in it.
        center: metres [3].
        axes: unit, one a row [3, 3].
        half: half the extent along each axis, metres [3].
    """

    category: str
    center: np.ndarray
    axes: np.ndarray
    half: np.ndarray

    @property
    def volume(self) -> float:
        return float(np.prod(2 * self.half))

    def contains(self, points: np.ndarray, margin: float) -> np.ndarray:
        """Which points [N, 3] are in the box grown by ``margin`` metres on all sides, bool [N]."""
        return (np.abs((points - self.center) @ self.axes.T) <= self.half + margin).all(axis=1)


def open_interior_gs(
    root: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    splits: str | Path | None = None,
    margin: float = 0.02,
    walls: bool = True,
) -> list[SceneSource]:
    """InteriorGS: ``<id>/3dgs_compressed.ply`` (SuperSplat-compressed), ``labels.json``, ``structure.json``.

    Axes are right, back, up; metres. A Gaussian whose centre is in several boxes belongs to the smallest. The data set
    comes without split lists: every scene is "train" unless ``splits`` says otherwise.

    Args:
        root: holds a folder each scene.
        classes: names, or a file with one a line; by default every label of the data set, sorted, for which all
            ``labels.json`` are read once.
        splits: folder of ``{train,val,test}.txt``, of which some may be missing.
        margin: metres by which boxes are grown, as Gaussians lie on the surface of their object and a little off it.
        walls: whether the walls of ``structure.json`` are things too; in ``labels.json`` they have no box.

    Raises:
        DatasetError: no scene, no split list in ``splits``, or one that lists a scene twice.
    """
    root = require_folder(root)
    names = class_names(classes) if classes is not None else None
    if splits is None:
        scenes = [(path.parent.name, "train", path.parent) for path in sorted(root.glob(f"*/{_GAUSSIANS}"))]
    else:
        lists = {subset: [Path(splits) / f"{subset}.txt"] for subset in SUBSETS}
        scenes = listed_scenes(lists, lambda name: root / name if (root / name / _GAUSSIANS).is_file() else None)
    if not scenes:
        raise DatasetError(f"{root}: no scenes (<id>/{_GAUSSIANS})")
    return [
        SceneSource(
            name,
            subset,
            (),
            gaussians=partial(load_gaussians, folder / _GAUSSIANS),
            labels=partial(_labels, folder, names, margin, walls) if (folder / _LABELS).is_file() else None,
        )
        for name, subset, folder in scenes
    ]


def smallest_box(points: np.ndarray, boxes: Sequence[Box], margin: float) -> np.ndarray:
    """Which box each point [N, 3] belongs to, int64 [N]: the smallest of those it is in, -1 = none."""
    result = np.full(len(points), -1, np.int64)
    for index in sorted(range(len(boxes)), key=lambda k: -boxes[k].volume):
        result[boxes[index].contains(points, margin)] = index
    return result


def box_from_corners(category: str, corners: np.ndarray) -> Box:
    """The box of its eight corners [8, 3] in any order.

    Of the vectors from one corner to the others the shortest is an edge, the shortest at a right angle to it another;
    the third edge is at right angles to both. A flat box is thin along the normal of its plane.

    Raises:
        ValueError: the corners are those of no box.
    """
    corners = np.asarray(corners, np.float64)
    if corners.shape != (8, 3) or not np.isfinite(corners).all():
        raise ValueError(f"corners of shape {corners.shape}: expected 8 finite points")
    edges: list[np.ndarray] = []
    for vector in sorted(corners[1:] - corners[0], key=np.linalg.norm):
        length = np.linalg.norm(vector)
        if length > 1e-9 and len(edges) < 3 and all(abs(vector @ edge) / length < _COLLINEAR for edge in edges):
            edges.append(vector / length)
    if len(edges) == 2:
        edges.append(np.cross(*edges))
    if len(edges) != 3:
        raise ValueError("corners that span no box")
    axes = np.stack(edges)
    center = (corners.min(axis=0) + corners.max(axis=0)) / 2
    distances = np.abs((corners - center) @ axes.T)
    if not np.allclose(distances, distances.max(axis=0), atol=1e-3 + 1e-2 * distances.max()):
        raise ValueError("corners of no rectangular box")
    return Box(category, center, axes, distances.max(axis=0))


def _labels(folder: Path, names: tuple[str, ...] | None, margin: float, walls: bool) -> LabelledPoints:
    boxes = _object_boxes(folder / _LABELS) + (_wall_boxes(folder / _STRUCTURE) if walls else [])
    classes = _all_categories(folder.parent, walls) if names is None else names
    place_of = {name: place for place, name in enumerate(classes)}
    place = np.array([place_of.get(box.category, -1) for box in boxes] + [-1], np.int64)
    points = load_gaussians(folder / _GAUSSIANS).means.numpy()
    instance = smallest_box(points, boxes, margin)
    return LabelledPoints(points, place[instance], instance, classes, tuple(InstanceInfo(b.category) for b in boxes))


def _object_boxes(path: Path) -> list[Box]:
    boxes, broken = [], 0
    for entry in read_json(path, list):
        corners = entry.get("bounding_box") if isinstance(entry, dict) else None
        if not corners:
            continue  # walls and the like: named, but without a box
        try:
            boxes.append(
                box_from_corners(str(entry["label"]), [[corner[axis] for axis in "xyz"] for corner in corners])
            )
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{path}: entry {entry.get('ins_id')}: {error!r}; expected label and x, y, z") from error
        except ValueError:
            broken += 1
    if broken:
        logger.warning("%s: %d entries whose corners are no box are left out", path, broken)
    return boxes


def _wall_boxes(path: Path) -> list[Box]:
    """Walls of the floor plan: a segment in the xy plane with a thickness, from the ground (z = 0) up."""
    if not path.is_file():
        return []
    boxes = []
    for wall in read_json(path, dict).get("walls", ()):
        try:
            ends = np.array(wall["location"], np.float64)[:2, :2]
            thickness, height = float(wall["thickness"]), float(wall["height"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DatasetError(f"{path}: wall: {error!r}; expected location, thickness and height") from error
        length = np.linalg.norm(ends[1] - ends[0])
        if length < 1e-6:
            continue
        along = np.append((ends[1] - ends[0]) / length, 0.0)
        axes = np.stack([along, np.cross((0.0, 0.0, 1.0), along), (0.0, 0.0, 1.0)])
        center = np.append(ends.mean(axis=0), height / 2)
        boxes.append(Box("wall", center, axes, np.array([length, thickness, height]) / 2))
    return boxes


@lru_cache(maxsize=4)
def _all_categories(root: Path, walls: bool) -> tuple[str, ...]:
    found = {"wall"} if walls else set()
    for path in sorted(root.glob(f"*/{_LABELS}")):
        entries = read_json(path, list)
        found |= {str(entry["label"]) for entry in entries if isinstance(entry, dict) and entry.get("bounding_box")}
    return tuple(sorted(found))
