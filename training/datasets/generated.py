"""Rooms that ``training.scenes.generate`` makes, with or without the views they were mapped from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from chorus_core.gaussians import Gaussians
from chorus_core.io.folders import open_numbered_folder
from training.datasets.base import DatasetError, LabelledPoints, SceneSource
from training.datasets.files import SUBSETS, class_names, read_json, require_folder, require_step
from training.datasets.images import LazyImages, SequenceImages
from training.language import load_descriptions
from training.prepared import InstanceInfo
from training.scenes.scene_file import load_scene
from training.scenes.views import load_surface


def open_generated(
    root: str | Path, *, classes: str | Path | Sequence[str] | None = None, every: int = 1, surface: bool = False
) -> list[SceneSource]:
    """Scenes ``<subset>_<seed>_<index>.npz`` and ``.json``, with a folder of views of the same stem where kept.

    Views are in the layout of ``chorus_core.io.folders.open_numbered_folder``.

    Args:
        root: the generator's output.
        classes: category names, or a file with one a line; ``segment`` counts through them sorted. By default every
            category of the scenes in the folder, for which all their ``.json`` are read.
        every: step between views.
        surface: label the noise-free surface that the views' folder holds (``surface.npz``) instead of the Gaussians.

    Raises:
        DatasetError: no scenes, or malformed facts of one.
    """
    root = require_folder(root)
    require_step(every)
    names = tuple(sorted(class_names(classes))) if classes is not None else None
    sources = []
    for path in _scene_files(root):
        stem = path.with_suffix("")
        images = LazyImages(partial(_images, stem, every)) if (stem / "intrinsics.json").is_file() else ()
        sources.append(
            SceneSource(
                stem.name,
                stem.name.partition("_")[0],
                images,
                gaussians=partial(_gaussians, stem),
                labels=partial(_labels, stem, names, surface),
                voxel_size=_voxel_size(path),
            )
        )
    if not sources:
        raise DatasetError(f"{root}: no scenes (<subset>_<name>.json and .npz, subset one of {', '.join(SUBSETS)})")
    return sources


def _scene_files(root: Path) -> list[Path]:
    """The ``.json`` of each whole scene; it is written last."""
    paths = (path for subset in SUBSETS for path in root.glob(f"{subset}_*.json"))
    return sorted(path for path in paths if path.with_suffix(".npz").is_file())


def _images(stem: Path, every: int) -> SequenceImages:
    return SequenceImages(open_numbered_folder(stem), every)


def _gaussians(stem: Path) -> Gaussians:
    return load_scene(stem.with_suffix(".npz")).gaussians


def _labels(stem: Path, names: tuple[str, ...] | None, surface: bool) -> LabelledPoints:
    scene = load_scene(stem.with_suffix(".npz"))
    if surface:
        points, instance = load_surface(stem)
    else:
        points, instance = scene.gaussians.means.numpy(), scene.instance.numpy()
    classes = _all_categories(stem.parent) if names is None else names
    place_of = {name: place for place, name in enumerate(classes)}
    place = np.array([place_of.get(thing.category, -1) for thing in scene.instances] + [-1], np.int64)
    things = tuple(InstanceInfo(thing.category, thing.object_id, thing.color) for thing in scene.instances)
    return LabelledPoints(points, place[instance], instance, _natural_names(classes), things)


def _voxel_size(path: Path) -> float:
    try:
        return float(read_json(path, dict)["facts"]["voxel_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: facts.voxel_size: expected metres ({error!r})") from error


def _natural_names(categories: Sequence[str]) -> tuple[str, ...]:
    """What people call the categories, which is what text encoders are asked for."""
    known = load_descriptions()
    return tuple(known[c].name if c in known else c.replace("_", " ") for c in categories)


@lru_cache(maxsize=4)
def _all_categories(root: Path) -> tuple[str, ...]:
    return tuple(
        sorted({thing["category"] for path in _scene_files(root) for thing in read_json(path, dict)["instances"]})
    )
