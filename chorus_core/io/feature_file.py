"""Features of a scene as ``.safetensors``: a row each Gaussian or point, in the order of the scene's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from chorus_core.io.atomic import atomic_path
from chorus_core.io.errors import ReadError, reading


class FeatureFileError(ReadError):
    """A feature file that cannot be used. The message names it."""


def save_features(path: str | Path, features: Tensor, kept: Tensor, facts: Mapping[str, Any]) -> None:
    """Write features, float16 [N, d], and which rows have any, bool [N] (others hold zeros); whole or not at all.

    Args:
        facts: how they were made; kept as JSON in the file's metadata, under "chorus".
    """
    tensors = {"features": features.half().cpu().contiguous(), "kept": kept.cpu().contiguous()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"chorus": json.dumps(dict(facts))})


def load_features(path: str | Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Features float16 [N, d], which rows have any bool [N], and how they were made.

    Raises:
        FeatureFileError: not such a file.
        FileNotFoundError: no such file.
    """
    Path(path).stat()  # a missing file is said so by its name
    with reading(path, FeatureFileError), safe_open(str(path), "pt") as file:
        features, kept = file.get_tensor("features"), file.get_tensor("kept")
        facts = json.loads((file.metadata() or {})["chorus"])
    if features.ndim != 2 or kept.shape != features.shape[:1]:
        raise FeatureFileError(
            f"{path}: features {tuple(features.shape)}, kept {tuple(kept.shape)}: expected [N, d], [N]"
        )
    if features.dtype != torch.float16 or kept.dtype != torch.bool or not isinstance(facts, dict):
        raise FeatureFileError(
            f"{path}: features {features.dtype}, kept {kept.dtype}, facts {type(facts).__name__}: expected "
            "torch.float16, torch.bool, dict"
        )
    return features, kept, facts
