"""Prepared scenes: Gaussians, labels and lifted teacher features in the npy layout of the SceneSplat releases.

A data set is a folder ``<subset>/<scene>/``; a scene holds ``coord``, ``color``, ``opacity``, ``quat``, ``scale`` (see
:mod:`chorus_core.io.scene_folder`), perhaps ``normal``, ``segment`` and ``instance`` (-1 = ignore), for each head
``<head>_feat.npy`` (fp16 [M, D]) with ``<head>_feat_index.npy`` (int32 [N], row of each Gaussian, -1 = none; without
it a row each Gaussian, of which ``valid_feat_mask.npy`` may call some not valid). Ours, and perhaps missing, are
``seen`` (int64 [N], which views saw each Gaussian) and ``scene.json``: names of the classes, the instances, which
teachers were lifted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_core.encoder.inputs import shortest_axes
from chorus_core.gaussians import Gaussians
from chorus_core.io.arrays import read_npy
from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import read_json
from chorus_core.io.errors import reading
from chorus_core.io.scene_folder import SceneFolderError, load_scene, save_scene

FEATURE_SUFFIX, INDEX_SUFFIX = "_feat", "_feat_index"


@dataclass(frozen=True)
class InstanceInfo:
    """One thing of a scene: its class, and where known the model it shows and its colour word."""

    category: str
    object_id: str = ""
    color: str = ""


@dataclass(frozen=True)
class SceneInfo:
    """What ``scene.json`` says.

    Attributes:
        name: of the scene.
        voxel_size: metres between Gaussians of the map that made it; 0 where they lie on no grid.
        classes: names that ``segment`` counts through.
        instances: things that ``instance`` counts through; empty where nothing more is known of them.
        teachers: name of the teacher that each head's features come from.
        facts: anything else worth keeping.
    """

    name: str
    voxel_size: float = 0.0
    classes: tuple[str, ...] = ()
    instances: tuple[InstanceInfo, ...] = ()
    teachers: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LiftedFeatures:
    """Teacher features of some Gaussians: ``table`` float16 [M, D], and each Gaussian's row, int64 [N], -1 = none."""

    table: Tensor
    index: Tensor

    def __getitem__(self, rows: Tensor) -> LiftedFeatures:
        """The features of some Gaussians; the table is shared."""
        return LiftedFeatures(self.table, self.index[rows])

    def to(self, device: torch.device | str) -> LiftedFeatures:
        return LiftedFeatures(self.table.to(device), self.index.to(device))


@dataclass(frozen=True)
class PreparedScene:
    """A scene to train or evaluate on.

    Attributes:
        info: names and facts.
        gaussians: N of them.
        normals: unit, world frame [N, 3].
        segment: class of each, -1 = ignore, int64 [N].
        instance: of each, -1 = ignore, int64 [N].
        features: lifted teacher features by head.
        seen: bit k tells whether view k of its tour saw the Gaussian, int64 [N]; None where that is not known.
    """

    info: SceneInfo
    gaussians: Gaussians
    normals: Tensor
    segment: Tensor
    instance: Tensor
    features: Mapping[str, LiftedFeatures]
    seen: Tensor | None = None


def save_prepared(folder: str | Path, scene: PreparedScene) -> None:
    """Write a prepared scene; ``scene.json`` last, so that a folder with one is whole.

    Raises:
        SceneFolderError: lengths differ, or Gaussians have non-finite values.
    """
    folder = Path(folder)
    count = len(scene.gaussians)
    for head, lifted in scene.features.items():
        if tuple(lifted.index.shape) != (count,):
            raise SceneFolderError(f"{head}: index of shape {tuple(lifted.index.shape)}, expected ({count},)")
        if count and int(lifted.index.max()) >= len(lifted.table):
            raise SceneFolderError(f"{head}: index up to {int(lifted.index.max())} for {len(lifted.table)} features")
    _remove_earlier(folder)
    arrays: dict[str, np.ndarray] = {} if scene.seen is None else {"seen": scene.seen.cpu().numpy()}
    for head, lifted in scene.features.items():
        arrays[head + INDEX_SUFFIX] = lifted.index.cpu().numpy().astype(np.int32)
        with atomic_path(folder / f"{head}{FEATURE_SUFFIX}.npy") as temporary:
            np.save(temporary, lifted.table.detach().cpu().half().numpy(), allow_pickle=False)
    save_scene(
        folder,
        scene.gaussians,
        normal=scene.normals.cpu().numpy().astype(np.float16),
        segment=scene.segment.cpu().numpy().astype(np.int32),
        instance=scene.instance.cpu().numpy().astype(np.int32),
        **arrays,
    )
    with atomic_path(folder / "scene.json") as temporary:
        temporary.write_text(json.dumps(asdict(scene.info)), encoding="utf-8")


def load_prepared(folder: str | Path, heads: Collection[str] | None = None) -> PreparedScene:
    """Read a prepared scene, or one of a SceneSplat release.

    Args:
        heads: whose features to read; None reads all there are.

    Raises:
        SceneFolderError: a file is missing, malformed, or does not fit the others.
    """
    folder = Path(folder)
    gaussians, extra = load_scene(folder)
    normals = extra.get("normal")
    return PreparedScene(
        _read_info(folder),
        gaussians,
        shortest_axes(gaussians) if normals is None else _normals(folder, normals, len(gaussians)),
        _labels(folder, "segment", extra.get("segment"), len(gaussians)),
        _labels(folder, "instance", extra.get("instance"), len(gaussians)),
        {head: _read_features(folder, head, len(gaussians)) for head in _heads(folder, heads)},
        torch.from_numpy(np.array(extra["seen"], np.int64)) if "seen" in extra else None,
    )


def prepared_scenes(root: str | Path, subset: str) -> list[Path]:
    """Folders of a subset's scenes, by name.

    Raises:
        SceneFolderError: there are none.
    """
    folder = Path(root) / subset
    found = sorted(path.parent for path in folder.glob("*/coord.npy"))
    if not found:
        raise SceneFolderError(f"{folder}: no prepared scenes (<scene>/coord.npy)")
    return found


def _remove_earlier(folder: Path) -> None:
    """Undo an earlier save: first what says that the folder is whole, then features that may not be written anew."""
    (folder / "scene.json").unlink(missing_ok=True)
    for pattern in (f"[!.]*{FEATURE_SUFFIX}.npy", f"[!.]*{INDEX_SUFFIX}.npy"):
        for path in folder.glob(pattern):
            path.unlink()


def _heads(folder: Path, wanted: Collection[str] | None) -> list[str]:
    there = sorted(p.stem.removesuffix(FEATURE_SUFFIX) for p in folder.glob(f"[!.]*{FEATURE_SUFFIX}.npy"))
    if wanted is None:
        return there
    if missing := sorted(set(wanted) - set(there)):
        raise SceneFolderError(f"{folder}: no {missing[0]}{FEATURE_SUFFIX}.npy; features are there of {there}")
    return [head for head in there if head in wanted]


def _read_info(folder: Path) -> SceneInfo:
    path = folder / "scene.json"
    if not path.is_file():
        return SceneInfo(folder.name)
    try:
        tree = read_json(path, error=SceneFolderError)
    except OSError as error:
        raise SceneFolderError(f"{path}: {error.strerror}") from error
    with reading(path, SceneFolderError):
        instances = tuple(InstanceInfo(**item) for item in tree.pop("instances", ()))
        classes = tuple(tree.pop("classes", ()))
        if not all(isinstance(name, str) for name in (*classes, *(thing.category for thing in instances))):
            raise SceneFolderError(f"{path}: a class or category that is no text")
        return SceneInfo(classes=classes, instances=instances, **tree)


def _read_features(folder: Path, head: str, count: int) -> LiftedFeatures:
    table_path, index_path = folder / f"{head}{FEATURE_SUFFIX}.npy", folder / f"{head}{INDEX_SUFFIX}.npy"
    try:
        table = read_npy(table_path, SceneFolderError)  # rows of large ones are read when they are used
        index = read_npy(index_path, SceneFolderError) if index_path.is_file() else _masked_rows(folder, count)
    except OSError as error:
        raise SceneFolderError(f"{folder}: features of {head!r} are unreadable ({error})") from error
    if table.dtype.kind != "f" or index.dtype.kind not in "iu":
        kinds = f"{table.dtype} with an index of {index.dtype}"
        raise SceneFolderError(f"{folder}: features of {head!r} are {kinds}: expected floats with one of integers")
    rows_known = not count or -1 <= int(index.min()) <= int(index.max()) < len(table)
    if table.ndim != 2 or index.shape != (count,) or not rows_known:
        raise SceneFolderError(
            f"{index_path}: {index.shape} up to {int(index.max(initial=-1))} for a table {table.shape}: "
            f"expected ({count},) with rows of it"
        )
    rows = torch.from_numpy(np.asarray(table if table.dtype == np.float16 else table.astype(np.float16)))
    return LiftedFeatures(rows, torch.from_numpy(index.astype(np.int64)))


def _masked_rows(folder: Path, count: int) -> np.ndarray:
    """The index of features without one, as in the first SceneSplat release: a row each Gaussian, some not valid."""
    path = folder / "valid_feat_mask.npy"
    rows = np.arange(count)
    if not path.is_file():
        return rows
    with reading(path, SceneFolderError):
        return np.where(read_npy(path, SceneFolderError).reshape(count) != 0, rows, -1)


def _labels(folder: Path, name: str, values: np.ndarray | None, count: int) -> Tensor:
    if values is None:
        return torch.full((count,), -1, dtype=torch.int64)
    if values.size != count:
        raise SceneFolderError(f"{folder / name}.npy has shape {values.shape}: expected ({count},)")
    return torch.from_numpy(np.asarray(values).astype(np.int64).reshape(count))


def _normals(folder: Path, values: np.ndarray, count: int) -> Tensor:
    if values.shape != (count, 3):
        raise SceneFolderError(f"{folder / 'normal'}.npy has shape {values.shape}: expected ({count}, 3)")
    return torch.from_numpy(np.array(values, np.float32))
