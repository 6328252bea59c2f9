"""ScanNet v2 (Dai et al. 2017) with the 20 classes of its benchmark, and ScanNet200 (Rozenberszki et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError
from training.datasets.base import DatasetError, LabelledPoints, PosedImage, SceneSource
from training.datasets.files import (
    SUBSETS,
    class_names,
    listed_scenes,
    read_json,
    read_lines,
    read_numbers,
    read_table,
    require_folder,
    require_step,
)
from training.datasets.images import MILLIMETRES, LazyImages, image_size, read_color, read_depth, rigid
from training.datasets.meshes import assign_groups, read_mesh
from training.prepared import InstanceInfo

NYU40_OF_SCANNET20 = {
    "wall": 1, "floor": 2, "cabinet": 3, "bed": 4, "chair": 5, "sofa": 6, "table": 7, "door": 8, "window": 9,
    "bookshelf": 10, "picture": 11, "counter": 12, "desk": 14, "curtain": 16, "refrigerator": 24,
    "shower curtain": 28, "toilet": 33, "sink": 34, "bathtub": 36, "other furniture": 39,
}  # fmt: skip
"""NYU40 id of each class of the ScanNet benchmark, in the benchmark's order."""

_COLUMNS = ("id", "raw_category", "nyu40id")


def open_scannet(
    root: str | Path,
    *,
    splits: str | Path | None = None,
    label_map: str | Path | None = None,
    every: int = 1,
    size: Literal["depth", "color"] = "depth",
    align: bool = True,
) -> list[SceneSource]:
    """ScanNet: ``scans/<id>/`` (and ``scans_test/<id>/``) with mesh, annotation and exported frames.

    A scene holds ``<id>_vh_clean_2.ply``, ``<id>_vh_clean_2.0.010000.segs.json``, ``<id>.aggregation.json``,
    ``<id>_vh_clean_2.labels.ply``, ``<id>.txt`` and, exported from its ``.sens``, ``color/N.jpg``, ``depth/N.png``
    (millimetres), ``pose/N.txt`` and ``intrinsic/``. Frames whose tracking was lost (pose ``-inf``) are dropped.
    Labels are those of the mesh's vertices by segments and aggregation; where these are missing, ``labels.ply``
    without instances. Scenes of the test list have no labels.

    Args:
        root: holds ``scans/``.
        splits: folder of ``scannetv2_{train,val,test}.txt``; the root by default.
        label_map: ``scannetv2-labels.combined.tsv``; in the root by default.
        every: step between frames; 20 is usual, the camera takes 30 a second.
        size: of the images: the depth camera's (640x480), as ``chorus_core.io.folders.open_scannet`` has it, or the
            colour camera's (1296x968), to which depth is brought by nearest neighbour. The two cameras' small offset
            is ignored, as is usual for this data set.
        align: turn meshes and poses by ``axisAlignment`` of ``<id>.txt``, so that walls lie along the axes.

    Raises:
        DatasetError: no split list, or none of the listed scenes is on disk.
    """
    return _open(Path(root), splits, label_map, None, every, size, align)


def open_scannet200(
    root: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    splits: str | Path | None = None,
    label_map: str | Path | None = None,
    every: int = 1,
    size: Literal["depth", "color"] = "depth",
    align: bool = True,
) -> list[SceneSource]:
    """ScanNet with the 200 classes of ScanNet200; everything else as :func:`open_scannet`.

    Args:
        classes: the names in the benchmark's order (each a raw category of the label map), or a file with one a line;
            ``scannet200_labels.txt`` in the root by default.

    Raises:
        DatasetError: no split list, none of the listed scenes is on disk, or no names.
    """
    names = class_names(Path(root) / "scannet200_labels.txt" if classes is None else classes)
    return _open(Path(root), splits, label_map, names, every, size, align)


def _open(
    root: Path,
    splits: str | Path | None,
    label_map: str | Path | None,
    names: tuple[str, ...] | None,
    every: int,
    size: str,
    align: bool,
) -> list[SceneSource]:
    require_folder(root)
    require_step(every)
    if size not in ("depth", "color"):
        raise DatasetError(f"size = {size!r}: expected 'depth' or 'color'")
    lists = Path(splits) if splits is not None else root
    table = Path(label_map) if label_map is not None else root / "scannetv2-labels.combined.tsv"
    sources = []
    for name, subset, folder in listed_scenes(
        {subset: [lists / f"scannetv2_{subset}.txt"] for subset in SUBSETS},
        lambda scene: next((p for p in (root / "scans" / scene, root / "scans_test" / scene) if p.is_dir()), None),
    ):
        labelled = any((folder / f"{name}{end}").is_file() for end in (".aggregation.json", "_vh_clean_2.labels.ply"))
        sources.append(
            SceneSource(
                name,
                subset,
                LazyImages(partial(_images, folder, every, size, align)),
                labels=partial(_labels, folder, table, names, align) if labelled else None,
            )
        )
    return sources


def _images(folder: Path, every: int, size: str, align: bool) -> list[PosedImage]:
    colors = sorted((int(path.stem), path) for path in (folder / "color").glob("[0-9]*") if path.stem.isdigit())
    poses = [(path, folder / "pose" / f"{path.stem}.txt", folder / "depth" / f"{path.stem}.png") for _, path in colors]
    usable = [entry for entry in poses[::every] if entry[1].is_file() and entry[2].is_file()]
    if not usable:
        return []
    width, height = image_size(usable[0][2] if size == "depth" else usable[0][0])
    path = folder / "intrinsic" / f"intrinsic_{size}.txt"
    try:
        intrinsics = CameraIntrinsics.from_matrix(read_numbers(path, (4, 4))[:3, :3], width, height)
    except FrameError as error:
        raise DatasetError(f"{path}: {error}") from error
    aligned_from_world = _axis_alignment(folder) if align else np.eye(4)
    images = []
    for color, pose, depth in usable:
        world_from_camera = read_numbers(pose, (4, 4))
        if not np.isfinite(world_from_camera).all():
            continue
        images.append(
            PosedImage(
                color.stem,
                intrinsics,
                rigid(aligned_from_world @ world_from_camera, pose, color.stem),
                partial(read_color, color, (width, height)),
                partial(read_depth, depth, MILLIMETRES, (width, height)),
            )
        )
    return images


def _axis_alignment(folder: Path) -> np.ndarray:
    """aligned_from_world [4, 4] of ``<id>.txt``; the identity where it has none, as in the test scans."""
    path = folder / f"{folder.name}.txt"
    for line in read_lines(path) if path.is_file() else ():
        key, _, value = line.partition("=")
        if key.strip() == "axisAlignment":
            try:
                return rigid(np.array(value.split(), np.float64).reshape(4, 4), path, "axisAlignment")
            except ValueError as error:
                raise DatasetError(f"{path}: axisAlignment = {value.strip()!r}: expected 16 numbers") from error
    return np.eye(4)


def _labels(folder: Path, table: Path, names: tuple[str, ...] | None, align: bool) -> LabelledPoints:
    stem = folder / folder.name
    mesh = read_mesh(Path(f"{stem}_vh_clean_2.ply"))
    aligned_from_world = _axis_alignment(folder) if align else np.eye(4)
    points = mesh.vertices @ aligned_from_world[:3, :3].T + aligned_from_world[:3, 3]
    groups_path = Path(f"{stem}.aggregation.json")
    if groups_path.is_file():
        segment, instance, things = _annotated(stem, groups_path, len(points), table, names)
    elif names is None:
        segment, things = _vertex_labels(Path(f"{stem}_vh_clean_2.labels.ply"), len(points)), ()
        instance = np.full(len(points), -1, np.int64)
    else:
        raise DatasetError(f"{groups_path}: no such file; labels of ScanNet200 need it")
    classes = tuple(NYU40_OF_SCANNET20) if names is None else names
    return LabelledPoints(points.astype(np.float32), segment, instance, classes, things)


def _annotated(
    stem: Path, groups_path: Path, vertices: int, table: Path, names: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray, tuple[InstanceInfo, ...]]:
    """Class and instance of each vertex by over-segmentation and aggregation."""
    segments_path = Path(f"{stem}_vh_clean_2.0.010000.segs.json")
    try:
        segments = np.asarray(read_json(segments_path, dict)["segIndices"], np.int64)
        groups = [(group["label"], group["segments"]) for group in read_json(groups_path, dict)["segGroups"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{groups_path} with {segments_path.name}: malformed annotation ({error!r})") from error
    if segments.shape != (vertices,):
        raise DatasetError(f"{segments_path}: segIndices of shape {segments.shape}, expected ({vertices},)")
    place_of = _scannet20_places(table) if names is None else _scannet200_places(table, names)
    classes = tuple(NYU40_OF_SCANNET20) if names is None else names
    place = np.array([place_of.get(label, -1) for label, _ in groups] + [-1], np.int64)
    instance = assign_groups(segments, [ids for _, ids in groups])
    things = (InstanceInfo(classes[k] if k >= 0 else raw) for k, (raw, _) in zip(place, groups, strict=False))
    return place[instance], instance, tuple(things)


def _vertex_labels(path: Path, vertices: int) -> np.ndarray:
    """Class of each vertex of a ``labels.ply``, whose ``label`` is an NYU40 id."""
    column = read_mesh(path).vertex_columns.get("label")
    if column is None or len(column) != vertices:
        raise DatasetError(f"{path}: expected a vertex property 'label' for each of {vertices} vertices")
    place = np.full(max(int(column.max(initial=0)), 40) + 1, -1, np.int64)
    place[list(NYU40_OF_SCANNET20.values())] = np.arange(len(NYU40_OF_SCANNET20))
    return place[column.astype(np.int64)]


@lru_cache(maxsize=8)
def _scannet20_places(table: Path) -> Mapping[str, int]:
    """Place among the 20 classes by raw category."""
    place = {str(nyu40): k for k, nyu40 in enumerate(NYU40_OF_SCANNET20.values())}
    return {row["raw_category"]: place.get(row["nyu40id"], -1) for row in read_table(table, _COLUMNS, "\t")}


@lru_cache(maxsize=8)
def _scannet200_places(table: Path, names: tuple[str, ...]) -> Mapping[str, int]:
    """Place among the given classes by raw category; several raw categories share the id of a class."""
    rows = read_table(table, _COLUMNS, "\t")
    id_of = {row["raw_category"]: row["id"] for row in rows}
    if unknown := [name for name in names if name not in id_of]:
        raise DatasetError(f"{table}: class {unknown[0]!r} is no raw_category of it")
    place = {id_of[name]: k for k, name in enumerate(names)}
    return {row["raw_category"]: place.get(row["id"], -1) for row in rows}
