"""A labelled map on disk: a standard 3DGS ``.ply`` that any viewer opens, and its features beside it.

``NAME.ply`` carries label, instance and confidence as extra columns; ``NAME.ID.features.npz`` holds the compact
features, the vocabulary that the labels index and which model made them, so that a saved map answers new questions at
once. How the two are kept together is told in :mod:`chorus_core.io.map_pair`.
"""

from __future__ import annotations

import io
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
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.vocabulary import Vocabulary, VocabularyError
from chorus_core.stamps import nanoseconds

__all__ = [
    "MapFileError", "ModelReference", "features_path", "load_map", "move_map", "save_bare_map", "save_map",
]  # fmt: skip

_VERSION = 3
"""Of the file of features; 1, without a number, is that of ``NAME.features.npz``; until 2 the stamp was in seconds."""

_LONGEST = 1.01
"""Length that a unit vector in half precision may reach."""


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


def save_map(
    path: str | Path,
    labelled: LabelledMap,
    instances: np.ndarray,
    model: ModelReference,
    origin: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
) -> Path:
    """Write a labelled map; an older one of that name is there, whole, until the new one is.

    Args:
        instances: object of each Gaussian, -1 = none [N].
        model: what made the features.
        origin: world position of the map's (0, 0, 0), metres [3].

    Returns:
        The ``.ply`` that was written, an absolute path.

    Raises:
        MapFileError, PlyFormatError: values out of range, which would be refused on reading.
        OSError: the disk is full, or the like.
    """
    target = Path(path).resolve()
    extra = {
        "label": labelled.labels.cpu().numpy().astype(np.int32),
        "instance": instances.astype(np.int32),
        "confidence": labelled.confidence.cpu().numpy(),
    }
    features = labelled.features.cpu().numpy()
    _check_columns(target, extra, len(labelled.vocabulary))
    _check_features(target, features, len(labelled), model.unit)

    def as_npz(ply_sha256: str) -> bytes:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            version=np.array(_VERSION),
            ply_sha256=np.array(ply_sha256),
            features=features,
            vocabulary=np.array(labelled.vocabulary.labels),
            model=np.array(model.name),
            model_sha256=np.array(model.sha256),
            unit=np.array(model.unit),
            stamp=np.array(labelled.stamp, np.int64),
        )
        return buffer.getvalue()

    write_pair(target, gaussians_as_ply(labelled.gaussians, extra, origin), as_npz)
    return target


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
    return read_pair(Path(path), _parse)


def _parse(pair: Pair) -> tuple[LabelledMap, ModelReference]:
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
    labelled = LabelledMap(
        gaussians,
        torch.from_numpy(facts["features"]),
        torch.from_numpy(extra["label"].astype(np.int64)),
        torch.from_numpy(extra["confidence"].astype(np.float32)),
        vocabulary,
        facts["stamp"],
    )
    return labelled, ModelReference(facts["model"], facts["model_sha256"], facts["unit"])


def _read_facts(pair: Pair) -> dict[str, Any]:
    """What the file of features holds, of the right types."""
    path, required = pair.features_path, ("features", "vocabulary", "model", "stamp")
    arrays = read_npz(path, required, ("version", "ply_sha256", "model_sha256", "unit"), MapFileError, pair.features)
    with reading(path, MapFileError):
        version = int(arrays.get("version", 1))
        facts = {
            "ply_sha256": str(arrays.get("ply_sha256", "")),
            "features": arrays["features"],
            "model": str(arrays["model"]),
            "model_sha256": str(arrays.get("model_sha256", "")),
            "unit": bool(arrays.get("unit", False)),
            "stamp": int(arrays["stamp"]) if version > 2 else nanoseconds(float(arrays["stamp"])),
        }
    if version > _VERSION:
        raise MapFileError(f"{path}: of version {version}: expected at most {_VERSION}, update to read it")
    names = arrays["vocabulary"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise MapFileError(f"{path}: vocabulary is {names.dtype} {names.shape}: expected a list of texts")
    return {**facts, "vocabulary": tuple(str(name) for name in names)}


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
