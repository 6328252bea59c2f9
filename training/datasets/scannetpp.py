"""ScanNet++ v2 (Yeshwanth et al. 2023): laser-scanned meshes, DSLR images."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from training.datasets.base import DatasetError, LabelledPoints, PosedImage, SceneSource
from training.datasets.files import (
    class_names,
    first_existing,
    listed_scenes,
    read_json,
    read_table,
    require_folder,
    require_step,
)
from training.datasets.images import LazyImages
from training.datasets.meshes import assign_groups, read_mesh, sample_surface
from training.datasets.nerfstudio import read_transforms
from training.prepared import InstanceInfo

_LISTS = {
    "train": ("nvs_sem_train.txt",),
    "val": ("nvs_sem_val.txt",),
    "test": ("sem_test.txt", "nvs_test.txt"),
}

JSON_FROM_WORLD = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
"""What the data set's ``nerfstudio/*.json`` turn the world of COLMAP and of the mesh by: x and y swapped, z negated."""


def open_scannetpp(
    root: str | Path,
    *,
    classes: str | Path | Sequence[str] | None = None,
    label_map: str | Path | None = None,
    splits: str | Path | None = None,
    every: int = 1,
    test_frames: bool = False,
    spacing: float = 0.02,
) -> list[SceneSource]:
    """ScanNet++: ``data/<id>/`` with mesh, annotation and undistorted DSLR images.

    A scene holds ``scans/mesh_aligned_0.05.ply``, ``scans/segments.json``, ``scans/segments_anno.json`` (absent in
    test scenes), ``dslr/resized_undistorted_images/`` and ``dslr/nerfstudio/transforms_undistorted.json``, as the
    toolkit's ``dslr.undistort`` writes them; where these two are missing, ``dslr/resized_images/`` and
    ``transforms.json`` (fisheye), undistorted when read. Images marked bad are left out. There is no depth.

    The mesh's triangles differ much in size, so labels are given on its vertices and on points sampled between them;
    a vertex of several objects belongs to the smallest, as in the benchmark.

    Args:
        root: holds ``data/``, ``splits/`` and ``metadata/``.
        classes: names, or a file with one a line; ``metadata/semantic_benchmark/top100.txt`` by default, or
            ``metadata/semantic_classes.txt``.
        label_map: ``map_benchmark.csv`` (raw label to benchmark label); in ``metadata/semantic_benchmark/`` by
            default, and done without where it is missing there.
        splits: folder of ``nvs_sem_train.txt``, ``nvs_sem_val.txt``, ``sem_test.txt`` and ``nvs_test.txt``.
        every: step between images.
        test_frames: whether to read the images held back for novel view synthesis too.
        spacing: metres between labelled points on the mesh.

    Raises:
        DatasetError: no split list, none of the listed scenes is on disk, or no class names.
    """
    root = require_folder(root)
    require_step(every)
    metadata = root / "metadata"
    if classes is None:
        candidates = [metadata / "semantic_benchmark" / "top100.txt", metadata / "semantic_classes.txt"]
        classes = first_existing(candidates, "class names")
    names = class_names(classes)
    table = metadata / "semantic_benchmark" / "map_benchmark.csv" if label_map is None else Path(label_map)
    if label_map is None and not table.is_file():
        table = None
    lists = root / "splits" if splits is None else Path(splits)
    sources = []
    for name, subset, folder in listed_scenes(
        {subset: [lists / file for file in files] for subset, files in _LISTS.items()},
        partial(_scene_folder, root / "data"),
    ):
        labelled = (folder / "scans" / "segments_anno.json").is_file()
        sources.append(
            SceneSource(
                name,
                subset,
                LazyImages(partial(_images, folder, every, test_frames)),
                labels=partial(_labels, folder, names, table, spacing) if labelled else None,
            )
        )
    return sources


def _scene_folder(data: Path, name: str) -> Path | None:
    return data / name if (data / name).is_dir() else None


def _images(folder: Path, every: int, test_frames: bool) -> list[PosedImage]:
    dslr = folder / "dslr"
    keys = ("frames", "test_frames") if test_frames else ("frames",)
    for transforms, images in (
        ("transforms_undistorted.json", "resized_undistorted_images"),
        ("transforms.json", "resized_images"),
    ):
        path = dslr / "nerfstudio" / transforms
        if path.is_file() and (dslr / images).is_dir():
            return read_transforms(path, dslr / images, JSON_FROM_WORLD, every, keys)
    return []


def _labels(folder: Path, names: tuple[str, ...], table: Path | None, spacing: float) -> LabelledPoints:
    scans = folder / "scans"
    mesh = read_mesh(scans / "mesh_aligned_0.05.ply")
    segments_path, groups_path = scans / "segments.json", scans / "segments_anno.json"
    try:
        segments = np.asarray(read_json(segments_path, dict)["segIndices"], np.int64)
        groups = [(str(group["label"]), group["segments"]) for group in read_json(groups_path, dict)["segGroups"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{groups_path} with {segments_path.name}: malformed annotation ({error!r})") from error
    if segments.shape != (len(mesh.vertices),):
        raise DatasetError(f"{segments_path}: segIndices of shape {segments.shape}, expected ({len(mesh.vertices)},)")
    mapped = [_benchmark_labels(table).get(label, label) if table else label for label, _ in groups]
    place_of = {name: k for k, name in enumerate(names)}
    place = np.array([place_of.get(label, -1) for label in mapped] + [-1], np.int64)
    instance = assign_groups(segments, [ids for _, ids in groups])
    # seeded by the scene, so that a second run labels the same points
    points, vertex = sample_surface(mesh, spacing, np.random.default_rng(zlib.crc32(folder.name.encode())))
    instance = instance[vertex]
    return LabelledPoints(points, place[instance], instance, names, tuple(InstanceInfo(label) for label in mapped))


@lru_cache(maxsize=8)
def _benchmark_labels(table: Path) -> Mapping[str, str]:
    """Benchmark label by raw label; labels that stay as they are have an empty cell."""
    rows = read_table(table, ("class", "semantic_map_to"), ",")
    return {row["class"]: row["semantic_map_to"] or row["class"] for row in rows}
