"""Training scenes on disk: quantised Gaussians with their instance (npz), and what the instances are (json)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from chorus_core.gaussians import Gaussians
from chorus_core.io.arrays import read_npz
from chorus_core.io.documents import read_json
from chorus_core.io.errors import ReadError, reading
from training.scenes.instance import Instance

_FORMS = {
    "origin": ("float32", 3),
    "means": ("int16", None, 3),
    "quats": ("int8", None, 4),
    "scales": ("float16", None, 3),
    "opacities": ("uint8", None),
    "colors": ("uint8", None, 3),
    "instance": ("int16", None),
}
"""Type and shape of the arrays; None is the number of Gaussians."""


class SceneFileError(ReadError):
    """A scene file that is not one; the message names the file and what is wrong."""


@dataclass(frozen=True)
class TrainingScene:
    """Gaussians, the instance of each (int64 [N], -1 unlabelled), the instances, and facts about the making."""

    gaussians: Gaussians
    instance: torch.Tensor
    instances: list[Instance]
    facts: dict[str, float | int | str]


def save_scene(
    path: str | Path, gaussians: Gaussians, instance: np.ndarray, instances: Sequence[Instance], facts: dict
) -> None:
    """Write ``path``.npz and ``path``.json: means in millimetres, quaternions in 1/127, colours and opacities in bytes.

    Raises:
        SceneFileError: the scene is larger than millimetres in 16 bits can hold (65 m).
    """
    path = Path(path)
    means = gaussians.means.cpu().numpy().astype(np.float64)
    origin = (means.min(0) + means.max(0)) / 2 if len(means) else np.zeros(3)
    millimetres = np.rint((means - origin) * 1000)
    if len(means) and np.abs(millimetres).max() > 32767:
        raise SceneFileError(
            f"{path}: Gaussians spread over {np.ptp(means, axis=0).tolist()} m, expected less than 65 m"
        )
    arrays = {
        "origin": origin.astype(np.float32),
        "means": millimetres.astype(np.int16),
        "quats": np.rint(gaussians.quats.cpu().numpy() * 127).astype(np.int8),
        "scales": gaussians.scales.cpu().numpy().astype(np.float16),
        "opacities": np.rint(gaussians.opacities.cpu().numpy() * 255).astype(np.uint8),
        "colors": np.rint(gaussians.colors.cpu().numpy() * 255).clip(0, 255).astype(np.uint8),
        "instance": np.asarray(instance).astype(np.int16),
    }
    temporary = path.with_suffix(".npz.tmp")
    with temporary.open("wb") as f:
        np.savez_compressed(f, **arrays)
    os.replace(temporary, path.with_suffix(".npz"))
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps({"facts": facts, "instances": [asdict(i) for i in instances]}), encoding="utf-8")
    os.replace(temporary, path.with_suffix(".json"))


def load_scene(path: str | Path) -> TrainingScene:
    """Read what ``save_scene`` wrote; ``path`` is either file, or their common stem.

    Raises:
        SceneFileError: a file is missing, damaged, lacks a field, or does not fit the other.
    """
    path = Path(path)
    npz, meta = path.with_suffix(".npz"), path.with_suffix(".json")
    if not npz.is_file() or not meta.is_file():
        raise SceneFileError(f"{path}: expected both {npz.name} and {meta.name}")
    data = read_npz(npz, tuple(_FORMS), error=SceneFileError)
    count = len(data["means"]) if data["means"].ndim else 0
    for name, (dtype, *shape) in _FORMS.items():
        wanted = tuple(count if side is None else side for side in shape)
        if data[name].dtype != dtype or data[name].shape != wanted or not np.isfinite(data[name]).all():
            raise SceneFileError(
                f"{npz}: {name} is {data[name].dtype} {data[name].shape}: expected finite {dtype} {wanted}"
            )
    record = read_json(meta, error=SceneFileError)
    with reading(meta, SceneFileError):
        instances = [Instance(**{**i, "size": tuple(i["size"])}) for i in record["instances"]]
        facts = dict(record["facts"])
    instance = torch.from_numpy(data["instance"].astype(np.int64))
    if count and not -1 <= int(instance.min()) <= int(instance.max()) < len(instances):
        raise SceneFileError(f"{npz}: instances up to {int(instance.max())}: {meta.name} has {len(instances)}")
    quats = data["quats"].astype(np.float32)
    if not quats.any(axis=1).all() or (data["scales"] < 0).any():
        raise SceneFileError(f"{npz}: quaternions of zeros or scales below zero: expected Gaussians")
    gaussians = Gaussians(
        torch.from_numpy(data["means"].astype(np.float32) / 1000 + data["origin"]),
        torch.nn.functional.normalize(torch.from_numpy(quats), dim=-1),
        torch.from_numpy(data["scales"].astype(np.float32)),
        torch.from_numpy(data["opacities"].astype(np.float32) / 255),
        torch.from_numpy(data["colors"].astype(np.float32) / 255),
    )
    return TrainingScene(gaussians, instance, instances, facts)
