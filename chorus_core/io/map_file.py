"""A labelled map on disk: a standard 3DGS ``.ply`` that any viewer opens, and its features beside it.

``NAME.ply`` carries label, instance and confidence as extra columns; ``NAME.features.npz`` holds the compact features,
the vocabulary that the labels index and which model made them, so that a saved map answers new questions at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from chorus_core.io.arrays import read_npz
from chorus_core.io.atomic import atomic_path
from chorus_core.io.errors import ReadError, reading
from chorus_core.io.gaussian_ply import load_extra, load_gaussians, save_gaussians
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.vocabulary import Vocabulary


class MapFileError(ReadError):
    """A saved map whose parts are missing or disagree; the message names them."""


@dataclass(frozen=True)
class ModelReference:
    """Which model made the features of a map.

    Attributes:
        name: of a shipped model, or the absolute path of a checkpoint.
        sha256: of its weights; empty where unknown.
    """

    name: str
    sha256: str = ""


def features_path(path: str | Path) -> Path:
    """Where the features of the map at ``path`` are kept."""
    return Path(path).with_suffix(".features.npz")


def save_map(
    path: str | Path,
    labelled: LabelledMap,
    instances: np.ndarray,
    model: ModelReference,
    origin: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
) -> None:
    """Write a labelled map.

    Args:
        instances: object of each Gaussian, -1 = none [N].
        model: what made the features.
        origin: world position of the map's (0, 0, 0), metres [3].
    """
    extra = {
        "label": labelled.labels.cpu().numpy().astype(np.int32),
        "instance": instances.astype(np.int32),
        "confidence": labelled.confidence.cpu().numpy(),
    }
    save_gaussians(path, labelled.gaussians.to("cpu"), extra, origin)
    with atomic_path(features_path(path)) as temporary:
        np.savez(
            temporary,
            features=labelled.features.cpu().numpy(),
            vocabulary=np.array(labelled.vocabulary.labels),
            model=np.array(model.name),
            model_sha256=np.array(model.sha256),
            stamp=np.array(labelled.stamp),
        )


def load_map(path: str | Path) -> tuple[LabelledMap, ModelReference]:
    """A labelled map and the model that made its features.

    Raises:
        MapFileError: there are no features beside the ``.ply``, they are damaged, or of another map.
        PlyFormatError: the ``.ply`` is damaged.
    """
    sidecar = features_path(path)
    if not sidecar.is_file():
        raise MapFileError(
            f"{sidecar}: missing; `python -m chorus_core encode {path} --out NEW.ply` makes an encoded map"
        )
    gaussians, extra = load_gaussians(path), load_extra(path)
    arrays = read_npz(sidecar, ("features", "vocabulary", "model", "stamp"), ("model_sha256",), MapFileError)
    with reading(sidecar, MapFileError):
        features = torch.from_numpy(arrays["features"])
        vocabulary = Vocabulary(tuple(str(label) for label in arrays["vocabulary"]))
        model = ModelReference(str(arrays["model"]), str(arrays.get("model_sha256", "")))
        stamp = float(arrays["stamp"])
    count = len(gaussians)
    if features.ndim != 2 or len(features) != count or not {"label", "confidence"} <= set(extra):
        raise MapFileError(f"{sidecar} holds features {tuple(features.shape)}, {path} {count} labelled Gaussians")
    if not (features.is_floating_point() and torch.isfinite(features).all()):
        raise MapFileError(f"{sidecar}: features are {features.dtype} or not finite: expected finite floating ones")
    with reading(path, MapFileError):
        labels = torch.from_numpy(extra["label"].astype(np.int64))
        confidence = torch.from_numpy(extra["confidence"].astype(np.float32))
    if count and not -1 <= int(labels.min()) <= int(labels.max()) < len(vocabulary):
        raise MapFileError(
            f"{path}: labels {int(labels.min())}..{int(labels.max())}: expected -1..{len(vocabulary) - 1}, places in "
            f"the vocabulary of {sidecar.name}"
        )
    return LabelledMap(gaussians, features, labels, confidence, vocabulary, stamp), model
