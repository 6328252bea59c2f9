"""SceneSplat folders (Li et al. 2025): prepared scenes, ours or those of the releases, as scenes to prepare anew."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from chorus_core.gaussians import Gaussians
from training.datasets.base import DatasetError, LabelledPoints, SceneSource
from training.datasets.files import SUBSETS, class_names, read_json, require_folder
from training.prepared import load_prepared


def open_scenesplat(root: str | Path, *, classes: str | Path | Sequence[str] | None = None) -> list[SceneSource]:
    """Scenes as ``<subset>/<scene>/{coord,color,opacity,quat,scale}.npy``, perhaps ``segment``, ``instance``.

    A subset's folder is named after it or starts with its name (the releases' ``train_grid1.0cm_chunk6x6_stride3x3``).
    A scene that lies in several folders of a subset is taken from the first by name.

    Args:
        root: holds the subsets' folders.
        classes: names that ``segment`` counts through, or a file with one a line; by default those of ``scene.json``.

    Raises:
        DatasetError: no scenes.
    """
    root = require_folder(root)
    names = class_names(classes) if classes is not None else None
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(root.glob("*/*/coord.npy")):
        folder = path.parent
        subset = next((s for s in SUBSETS if folder.parent.name == s or folder.parent.name.startswith(f"{s}_")), None)
        if subset is not None:
            found.setdefault((folder.name, subset), folder)
    if not found:
        raise DatasetError(f"{root}: no scenes (<subset>/<scene>/coord.npy, subset one of {', '.join(SUBSETS)})")
    return [
        SceneSource(
            name,
            subset,
            (),
            gaussians=partial(_gaussians, folder),
            labels=partial(_labels, folder, names) if (folder / "segment.npy").is_file() else None,
            voxel_size=_voxel_size(folder),
        )
        for (name, subset), folder in sorted(found.items())
    ]


def _gaussians(folder: Path) -> Gaussians:
    return load_prepared(folder, heads=()).gaussians


def _labels(folder: Path, names: tuple[str, ...] | None) -> LabelledPoints:
    scene = load_prepared(folder, heads=())
    return LabelledPoints(
        scene.gaussians.means.numpy(),
        scene.segment.numpy(),
        scene.instance.numpy(),
        scene.info.classes if names is None else names,
        scene.info.instances,
    )


def _voxel_size(folder: Path) -> float:
    path = folder / "scene.json"
    return float(read_json(path, dict).get("voxel_size", 0.0)) if path.is_file() else 0.0
