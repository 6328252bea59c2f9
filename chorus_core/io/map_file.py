"""A labelled map on disk: a standard 3DGS ``.ply`` that any viewer opens, and its features beside it.

``NAME.ply`` carries label, instance and confidence as extra columns; ``NAME.ID.features.npz`` holds the compact
features, the vocabulary that the labels index, which model made them, and all else that it takes to answer new
questions at once and to go on mapping. How the two are kept together is told in :mod:`chorus_core.io.map_pair`.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chorus_core.gaussians import Gaussians
from chorus_core.io.arrays import read_npz
from chorus_core.io.errors import reading
from chorus_core.io.gaussian_ply import gaussians_as_ply, load_extra, load_gaussians
from chorus_core.io.map_pair import MapFileError, Pair, features_path, move_map, read_pair, write_bare, write_pair
from chorus_core.io.ply import PlyFormatError
from chorus_core.mapping.map_state import ARRAYS, NUMBERS, MapState, MapStateError
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.objects import SceneObject, make_object
from chorus_core.semantics.vocabulary import Vocabulary, VocabularyError
from chorus_core.stamps import nanoseconds

__all__ = [
    "MapFileError", "ModelReference", "features_path", "load_map", "load_map_state", "move_map", "save_bare_map",
    "save_map",
]  # fmt: skip

_VERSION = 4
"""Of the file of features; 1, without a number, is that of ``NAME.features.npz``; until 2 the stamp was in seconds;
until 3 objects were numbered anew from 0 in each save, and a map could not be gone on with."""

_LONGEST = 1.01
"""Length that a unit vector in half precision may reach."""

_STATE, _BESIDE = "map_", ("features", "labels", "confidence")
"""Prefix of the arrays of a state; of those that the ``.ply`` and ``features`` have anyway, it holds the other rows."""


@dataclass(frozen=True)
class ModelReference:
    """Which model made the features of a map.

    Attributes:
        name: of a shipped model, or the absolute path of a checkpoint.
        sha256: of its weights; empty where unknown.
        unit: its features are of unit length, and at most that in the compact space.
    """

    name: str
    sha256: str = ""
    unit: bool = False

    def made_the_same(self, other: ModelReference) -> bool:
        """Whether features of both mean the same: of one digest, or, where one has none, of one name."""
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.name == other.name


def save_map(
    path: str | Path,
    labelled: LabelledMap,
    model: ModelReference,
    origin: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
    state: MapState | None = None,
) -> Path:
    """Write a labelled map; an older one of that name is there, whole, until the new one is.

    Args:
        model: what made the features.
        origin: world position of the map's (0, 0, 0), metres [3].
        state: of the map at the same moment, so that mapping can go on; None for a scene that no robot mapped.

    Returns:
        The ``.ply`` that was written, an absolute path.

    Raises:
        MapFileError, PlyFormatError: values out of range, which would be refused on reading.
        OSError: the disk is full, or the like.
    """
    target = Path(path).resolve()
    extra = {
        "label": labelled.labels.cpu().numpy().astype(np.int32),
        "instance": labelled.instances,
        "confidence": labelled.confidence.cpu().numpy(),
    }
    features = labelled.features.cpu().numpy()
    _check_columns(target, extra, len(labelled.vocabulary))
    _check_features(target, features, len(labelled), model.unit)
    arrays = {
        "version": np.array(_VERSION),
        "features": features,
        "vocabulary": np.array(labelled.vocabulary.labels),
        "model": np.array(model.name),
        "model_sha256": np.array(model.sha256),
        "unit": np.array(model.unit),
        "stamp": np.array(labelled.stamp, np.int64),
        "map_id": np.array(labelled.map_id),
        "object_ids": np.array([item.id for item in labelled.objects], np.int64),
        "object_first_seen": np.array([item.first_seen for item in labelled.objects], np.int64),
        "next_object": np.array(labelled.next_object, np.int64),
        **(_state_arrays(state) if state is not None else {}),
    }

    def as_npz(ply_sha256: str) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, ply_sha256=np.array(ply_sha256), **arrays)
        return buffer.getvalue()

    write_pair(target, gaussians_as_ply(labelled.gaussians, extra, origin), as_npz)
    return target


def _state_arrays(state: MapState) -> dict[str, np.ndarray]:
    arrays = {name: getattr(state, name) for name in ARRAYS}
    arrays |= {name: arrays[name][state.handed_out :] for name in _BESIDE}
    return {f"{_STATE}{name}": np.asarray(values) for name, values in (arrays | _numbers(state)).items()}


def _numbers(state: MapState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in NUMBERS}


def save_bare_map(
    path: str | Path, gaussians: Gaussians, origin: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)
) -> Path:
    """Write Gaussians without meaning, as :func:`save_map` would: features of an older map of that name go.

    Returns:
        The ``.ply`` that was written, an absolute path.

    Raises:
        PlyFormatError: values that the format cannot hold.
        OSError: the disk is full, or the like.
    """
    target = Path(path).resolve()
    write_bare(target, gaussians_as_ply(gaussians, origin=origin))
    return target


def load_map(path: str | Path) -> tuple[LabelledMap, ModelReference]:
    """A labelled map and the model that made its features.

    Raises:
        MapFileError: a part is missing, damaged (any byte of either file), or not of this map, or values are out of
            their range.
        OSError: there is no such ``.ply``, or it is not readable.
    """
    return read_pair(Path(path), lambda pair: _parse(pair)[:2])


def load_map_state(path: str | Path) -> tuple[LabelledMap, ModelReference, MapState]:
    """What :func:`load_map` gives, and all that it takes to go on mapping.

    Raises:
        MapFileError: as there, or the file holds no state of a map.
        OSError: there is no such ``.ply``, or it is not readable.
    """

    def parse(pair: Pair) -> tuple[LabelledMap, ModelReference, MapState]:
        labelled, model, state = _parse(pair, with_state=True)
        if state is None:
            raise MapFileError(
                f"{path}: a scene without the state of a map, which is kept since version 4 of the file: expected a "
                "map saved by `chorus_core map` or the node; its recording has to be mapped again"
            )
        return labelled, model, state

    return read_pair(Path(path), parse)


def _parse(pair: Pair, with_state: bool = False) -> tuple[LabelledMap, ModelReference, MapState | None]:
    path, facts = pair.path, _read_facts(pair)
    if pair.rest_sha256 is not None and facts["ply_sha256"] != pair.rest_sha256:
        raise MapFileError(f"{path}: damaged: its sha256 is not the one in {pair.features_path.name}")
    try:
        gaussians, extra = load_gaussians(path), load_extra(path)
    except PlyFormatError as error:
        raise MapFileError(str(error)) from error
    if not {"label", "confidence"} <= set(extra):
        raise MapFileError(f"{path} has no columns label, confidence: expected a labelled map")
    try:
        vocabulary = Vocabulary(facts["vocabulary"])
    except VocabularyError as error:
        raise MapFileError(f"{pair.features_path}: {error}") from error
    _check_columns(path, extra, len(vocabulary))
    _check_features(pair.features_path, facts["features"], len(gaussians), facts["unit"])
    state = _read_state(pair, facts, extra) if with_state and facts["map_id"] else None
    labelled = LabelledMap(
        gaussians,
        torch.from_numpy(facts["features"]),
        torch.from_numpy(extra["label"].astype(np.int64)),
        torch.from_numpy(extra["confidence"].astype(np.float32)),
        vocabulary,
        facts["stamp"],
        map_id=facts["map_id"],
        next_object=facts["next_object"],
        first_seen=facts["first_seen"],
        last_seen=facts["last_seen"],
    )
    labelled.objects = _objects(labelled, extra.get("instance"), facts)
    return labelled, ModelReference(facts["model"], facts["model_sha256"], facts["unit"]), state


def _objects(labelled: LabelledMap, instances: np.ndarray | None, facts: dict[str, Any]) -> list[SceneObject]:
    """Objects of the column of instances, which began at 0 in older files, the largest first."""
    if instances is None:
        return []
    numbers = instances.astype(np.int64) + (1 if facts["version"] < 4 else 0)
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] > 0]
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
    means, labels = labelled.gaussians.means.numpy(), labelled.labels.numpy()
    confidence, known = labelled.confidence.numpy(), facts["object_first_seen"]
    found = []
    for rows in parts:
        name = labelled.vocabulary.labels[max(int(labels[rows[0]]), 0)]
        number = int(numbers[rows[0]])
        found.append(
            make_object(
                name,
                confidence[rows],
                means[rows],
                rows,
                id=number,
                first_seen=known.get(number, 0),
                last_seen=0 if labelled.last_seen is None else int(labelled.last_seen[rows].max()),
            )
        )
    return sorted(found, key=lambda item: (-item.count, item.id))


_OPTIONAL = (
    "version", "ply_sha256", "model_sha256", "unit", "map_id", "object_ids", "object_first_seen", "next_object",
    f"{_STATE}first_seen", f"{_STATE}last_seen",
)  # fmt: skip


def _read_facts(pair: Pair) -> dict[str, Any]:
    """What the file of features holds, of the right types."""
    path, required = pair.features_path, ("features", "vocabulary", "model", "stamp")
    arrays = read_npz(path, required, _OPTIONAL, MapFileError, pair.features)
    with reading(path, MapFileError):
        version = int(arrays.get("version", 1))
        facts = {
            "version": version,
            "ply_sha256": str(arrays.get("ply_sha256", "")),
            "features": arrays["features"],
            "model": str(arrays["model"]),
            "model_sha256": str(arrays.get("model_sha256", "")),
            "unit": bool(arrays.get("unit", False)),
            "stamp": int(arrays["stamp"]) if version > 2 else nanoseconds(float(arrays["stamp"])),
            "map_id": str(arrays.get("map_id", "")),
            "next_object": int(arrays.get("next_object", 1)),
            "object_first_seen": {
                int(number): int(seen)
                for number, seen in zip(arrays.get("object_ids", ()), arrays.get("object_first_seen", ()), strict=True)
            },
        }
        if facts["map_id"]:
            facts["map_id"] = str(uuid.UUID(facts["map_id"]))
        for name in ("first_seen", "last_seen"):
            seen = arrays.get(f"{_STATE}{name}")
            facts[name] = None if seen is None else _stamps(seen, len(facts["features"]))
    if version > _VERSION:
        raise MapFileError(f"{path}: of version {version}: expected at most {_VERSION}, update to read it")
    names = arrays["vocabulary"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise MapFileError(f"{path}: vocabulary is {names.dtype} {names.shape}: expected a list of texts")
    return {**facts, "vocabulary": tuple(str(name) for name in names)}


def _stamps(values: np.ndarray, count: int) -> np.ndarray:
    if values.dtype != np.int64 or values.ndim != 1 or len(values) < count:
        raise ValueError(f"stamps are {values.dtype} {values.shape}: expected int64 of at least {count} Gaussians")
    return values[:count]


def _read_state(pair: Pair, facts: dict[str, Any], extra: dict[str, np.ndarray]) -> MapState | None:
    """The state of the map, of its own arrays and of what the map has anyway; None where there is none."""
    path, names = pair.features_path, tuple(f"{_STATE}{name}" for name in (*ARRAYS, *NUMBERS))
    arrays = read_npz(path, (), names, MapFileError, pair.features)
    if f"{_STATE}map_id" not in arrays:
        return None
    if missing := [name for name in names if name not in arrays]:
        raise MapFileError(f"{path}: no array {missing[0]}")
    values: dict[str, Any] = {name: arrays[f"{_STATE}{name}"] for name in ARRAYS}
    with reading(path, MapFileError):
        shown = {"features": facts["features"], "labels": extra["label"], "confidence": extra["confidence"]}
        for name in _BESIDE:
            values[name] = np.concatenate((shown[name].astype(values[name].dtype), values[name]))
        for name in NUMBERS:
            values[name] = arrays[f"{_STATE}{name}"].item()
    with reading(path, MapFileError):
        try:
            state = MapState(**values)
        except MapStateError as error:
            raise MapFileError(f"{path}: {error}") from error
    if int(state.labels.max(initial=-1)) >= len(facts["vocabulary"]):
        raise MapFileError(f"{path}: a label is not in the vocabulary")
    if state.handed_out != len(facts["features"]) or state.map_id != facts["map_id"]:
        raise MapFileError(f"{path}: its state is of another map")
    return state


def _check_columns(path: Path, columns: dict[str, np.ndarray], labels: int) -> None:
    for name, first, end in (("label", -1, labels), ("instance", -1, 2**31)):
        values = columns.get(name, np.zeros(0, np.int32))
        if values.dtype.kind not in "iu":
            raise MapFileError(f"{path}: column {name} is {values.dtype}: expected integers")
        wrong = int(((values < first) | (values >= end)).sum())
        if wrong:
            raise MapFileError(f"{path}: {name} of {wrong} of {len(values)} Gaussians is not in [{first}, {end - 1}]")
    confidence = columns["confidence"]
    wrong = int((~((confidence >= 0) & (confidence <= 1))).sum())  # so that NaN is wrong too
    if wrong:
        raise MapFileError(f"{path}: confidence of {wrong} of {len(confidence)} Gaussians is not in [0, 1]")


def _check_features(path: Path, features: np.ndarray, count: int, unit: bool) -> None:
    if features.dtype != np.float16 or features.ndim != 2 or len(features) != count or features.shape[1] < 1:
        raise MapFileError(
            f"{path}: features are {features.dtype} {features.shape}: expected float16 ({count}, width), a row for "
            "each Gaussian of the .ply"
        )
    wrong, reason = ~np.isfinite(features).all(axis=1), "finite"
    if unit and not wrong.any():
        squares = np.einsum("ij,ij->i", features, features, dtype=np.float32)
        wrong, reason = squares > _LONGEST**2, "of at most unit length"
    if wrong.any():
        raise MapFileError(f"{path}: features of {int(wrong.sum())} of {count} Gaussians are not {reason}")
