"""Data sets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.datasets.base import DatasetError, SceneSource
from training.datasets.generated import open_generated
from training.datasets.interior_gs import open_interior_gs
from training.datasets.matterport3d import open_matterport3d
from training.datasets.recording import open_recording
from training.datasets.scannet import open_scannet, open_scannet200
from training.datasets.scannetpp import open_scannetpp
from training.datasets.scenesplat import open_scenesplat

_OPENERS: Mapping[str, Callable[..., list[SceneSource]]] = {
    "scannet": open_scannet,
    "scannet200": open_scannet200,
    "scannetpp": open_scannetpp,
    "matterport3d": open_matterport3d,
    "interior_gs": open_interior_gs,
    "scenesplat": open_scenesplat,
    "generated": open_generated,
    "recording": open_recording,
}

DATASETS: Mapping[str, str] = {
    "scannet": "ScanNet v2: exported RGB-D frames, mesh labels in the 20 classes of its benchmark",
    "scannet200": "ScanNet v2 with the 200 classes of ScanNet200",
    "scannetpp": "ScanNet++ v2: DSLR images, laser-scanned mesh labels in the benchmark's classes",
    "matterport3d": "Matterport3D: undistorted RGB-D images, house meshes with 21 or 160 classes",
    "interior_gs": "InteriorGS: Gaussians with a box around each object",
    "scenesplat": "npy scene folders, as the SceneSplat releases and our preparation write them",
    "generated": "rooms of training.scenes.generate, with their views where kept",
    "recording": "one RGB-D recording, folder of posed images (transforms.json) or .ply of Gaussians",
}
"""What each data set is, by the name that :func:`open_dataset` takes."""


def open_dataset(name: str, root: str | Path, /, **options: Any) -> list[SceneSource]:
    """Scenes of a data set, by name of the scene; nothing heavy is read until a source is asked for it.

    Args:
        name: one of :data:`DATASETS`.
        root: the data set's folder.
        options: keyword arguments of the data set's ``open_...`` function.

    Raises:
        DatasetError: no such data set or option, or the data set cannot be listed. What a source reads later may raise
            PlyFormatError, SceneFolderError, SceneFileError, SequenceError or ImageError too: all are ValueErrors that
            name the file.
    """
    opener = _OPENERS.get(name)
    if opener is None:
        raise DatasetError(f"data set {name!r}: expected one of {', '.join(DATASETS)}")
    known = [parameter for parameter in inspect.signature(opener).parameters if parameter != "root"]
    if unknown := sorted(set(options) - set(known)):
        raise DatasetError(f"data set {name!r}: no option {unknown[0]!r}; it has {', '.join(known)}")
    return opener(root, **options)
