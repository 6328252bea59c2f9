"""Matterport3D (Chang et al. 2017): houses, scanned from tripods."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError
from training.datasets.base import DatasetError, LabelledPoints, PosedImage, SceneSource
from training.datasets.files import (
    SUBSETS,
    class_names,
    first_existing,
    listed_scenes,
    read_lines,
    read_table,
    require_folder,
    require_step,
)
from training.datasets.images import CV_FROM_GL, LazyImages, image_size, read_color, read_depth, rigid
from training.datasets.meshes import Mesh, read_mesh, vertex_majority
from training.datasets.scannet import NYU40_OF_SCANNET20
from training.prepared import InstanceInfo

DEPTH_UNITS = 4000.0
"""Units of a depth image a metre: 0.25 mm each."""

MATTERPORT21 = (*NYU40_OF_SCANNET20, "ceiling")
"""The classes of the 21-class evaluation: ScanNet's and the ceiling, all of NYU40."""

_NYU40_NAMES = {"refrigerator": "refridgerator", "other furniture": "otherfurniture"}
"""Classes that the mapping's ``nyu40class`` column spells otherwise."""

_OBJECT_COLUMNS, _CATEGORY_COLUMNS = ("segment_id", "face_segment"), ("category_id", "face_category")


def open_matterport3d(
    root: str | Path,
    *,
    label_set: Literal["matterport21", "nyu160"] = "matterport21",
    classes: str | Path | Sequence[str] | None = None,
    label_map: str | Path | None = None,
    splits: str | Path | None = None,
    every: int = 1,
) -> list[SceneSource]:
    """Matterport3D: ``v1/scans/<id>/``, a house each; archives may have been unpacked to ``<id>/<id>/``.

    A house holds ``undistorted_camera_parameters/<id>.conf``, ``undistorted_color_images/``,
    ``undistorted_depth_images/`` and ``house_segmentations/<id>.ply``, whose faces carry ``segment_id`` (object) and
    ``category_id`` (index in the category mapping); where that mesh is missing, ``region_segmentations/region*.ply``.
    A vertex has the object of most of its faces.

    Args:
        root: holds ``v1/scans/`` or ``scans/``.
        label_set: 21 classes of NYU40, or classes of NYU by name (160 are usual).
        classes: names, or a file with one a line, in order; needed for "nyu160".
        label_map: ``category_mapping.tsv``; in the root or its ``metadata/`` by default.
        splits: folder of ``scenes_{train,val,test}.txt`` (``tasks/benchmark`` of the data set's repository); the root
            by default.
        every: step between images.

    Raises:
        DatasetError: no split list, no class names, or none of the listed scenes is on disk.
    """
    root = require_folder(root)
    require_step(every)
    if label_set not in ("matterport21", "nyu160"):
        raise DatasetError(f"label_set = {label_set!r}: expected 'matterport21' or 'nyu160'")
    if label_set == "nyu160" and classes is None:
        raise DatasetError("classes: label_set 'nyu160' needs names, or a file with one a line")
    names = MATTERPORT21 if classes is None else class_names(classes)
    column = "nyu40class" if label_set == "matterport21" else "nyuClass"
    candidates = [root / "category_mapping.tsv", root / "metadata" / "category_mapping.tsv"]
    table = candidates[1] if candidates[1].is_file() else candidates[0]
    table = table if label_map is None else Path(label_map)
    scans = first_existing([root / "v1" / "scans", root / "scans"], "scans")
    lists = root if splits is None else Path(splits)
    sources = []
    for name, subset, folder in listed_scenes(
        {subset: [lists / f"scenes_{subset}.txt"] for subset in SUBSETS}, partial(_house, scans)
    ):
        labelled = bool(_label_meshes(folder))
        sources.append(
            SceneSource(
                name,
                subset,
                LazyImages(partial(_images, folder, every)),
                labels=partial(_labels, folder, table, column, names) if labelled else None,
            )
        )
    return sources


def _house(scans: Path, name: str) -> Path | None:
    return next((folder for folder in (scans / name / name, scans / name) if folder.is_dir()), None)


def _images(folder: Path, every: int) -> list[PosedImage]:
    """Images of the ``.conf`` file.

    It counts pixels from the bottom-left one and has cameras with OpenGL axes; ``scan`` lines have the intrinsics of
    the ``intrinsics_matrix`` line before them.
    """
    path = folder / "undistorted_camera_parameters" / f"{folder.name}.conf"
    colors, depths = folder / "undistorted_color_images", folder / "undistorted_depth_images"
    if not path.is_file() or not colors.is_dir():
        return []
    matrix: np.ndarray | None = None
    scans: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    for number, line in enumerate(read_lines(path), start=1):
        key, *words = line.split()
        try:
            if key == "intrinsics_matrix":
                matrix = np.array(words, np.float64).reshape(3, 3)
            elif key == "scan":
                pose = np.array(words[2:], np.float64).reshape(4, 4)
                if matrix is None:
                    raise ValueError("scan before any intrinsics_matrix")
                scans.append((words[0], words[1], pose, matrix))
        except (ValueError, IndexError) as error:
            raise DatasetError(
                f"{path}: entry {number}: {error}; expected 'scan <depth> <color> <16 numbers>'"
            ) from None
    there = [scan for scan in scans[::every] if (colors / scan[1]).is_file()]
    if not there:
        return []
    width, height = image_size(colors / there[0][1])
    images = []
    for depth, color, world_from_gl_camera, matrix in there:
        try:
            intrinsics = CameraIntrinsics(
                matrix[0, 0], matrix[1, 1], matrix[0, 2], height - 1 - matrix[1, 2], width, height
            )
        except FrameError as error:
            raise DatasetError(f"{path}: {color}: {error}") from error
        images.append(
            PosedImage(
                Path(color).stem,
                intrinsics,
                rigid(world_from_gl_camera @ CV_FROM_GL, path, color),
                partial(read_color, colors / color, (width, height)),
                partial(read_depth, depths / depth, DEPTH_UNITS, (width, height)),
            )
        )
    return images


def _label_meshes(folder: Path) -> list[Path]:
    house = folder / "house_segmentations" / f"{folder.name}.ply"
    return [house] if house.is_file() else sorted((folder / "region_segmentations").glob("region*.ply"))


def _labels(folder: Path, table: Path, column: str, names: tuple[str, ...]) -> LabelledPoints:
    place_of_category, categories = _category_places(table, column, names)
    points, segments, instances, things = [], [], [], []
    for path in _label_meshes(folder):
        mesh = read_mesh(path)
        category_of_object, object_of_vertex = _objects(path, mesh)
        category_of_object = np.where(category_of_object < len(place_of_category), category_of_object, 0).clip(min=0)
        segments.append(np.append(place_of_category[category_of_object], -1)[object_of_vertex])
        # objects are numbered through all regions of a house
        instances.append(np.where(object_of_vertex >= 0, object_of_vertex + len(things), -1))
        points.append(mesh.vertices)
        places = place_of_category[category_of_object]
        named = zip(places, category_of_object, strict=True)
        things += [InstanceInfo(names[place] if place >= 0 else categories[category]) for place, category in named]
    return LabelledPoints(
        np.concatenate(points), np.concatenate(segments), np.concatenate(instances), names, tuple(things)
    )


def _objects(path: Path, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Category of each object of a mesh [I], and object of each vertex, -1 = none [V]."""
    object_ids, category_ids = (
        next((mesh.face_columns[name] for name in names if name in mesh.face_columns), None)
        for names in (_OBJECT_COLUMNS, _CATEGORY_COLUMNS)
    )
    if object_ids is None or category_ids is None:
        raise DatasetError(f"{path}: faces without segment_id and category_id; they have {list(mesh.face_columns)}")
    ids, first, label = np.unique(object_ids, return_index=True, return_inverse=True)
    majority = vertex_majority(mesh.faces, label.reshape(-1), len(mesh.vertices))
    unlabelled = np.flatnonzero(ids < 0)
    return category_ids[first].astype(np.int64), np.where(np.isin(majority, unlabelled), -1, majority)


@lru_cache(maxsize=8)
def _category_places(table: Path, column: str, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Place among the classes (-1 = none) and name of each category, by its ``index``; index 0 is no category."""
    rows = read_table(table, ("index", "category", column), "\t")
    spelling = _NYU40_NAMES if column == "nyu40class" else {}
    place_of_name = {spelling.get(name, name): place for place, name in enumerate(names)}
    try:
        indices = [int(row["index"]) for row in rows]
    except ValueError as error:
        raise DatasetError(f"{table}: index: {error}; expected whole numbers") from error
    places = np.full(max(indices) + 1, -1, np.int64)
    categories = [""] * len(places)
    for index, row in zip(indices, rows, strict=True):
        places[index], categories[index] = place_of_name.get(row[column], -1), row["category"]
    return places, tuple(categories)
