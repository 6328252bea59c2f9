"""Intermediate results of a scene on disk, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chorus_core.io.atomic import atomic_path


def key_of(facts: Mapping[str, Any]) -> str:
    """A short hash of everything a result depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


class Stages:
    """Named results in a folder, each with the key of what it was made from.

    Args:
        folder: made when something is put.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str, key: str) -> dict[str, Tensor] | None:
        """The tensors put under a name, on the CPU; None where there are none or they were made from something else."""
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") != key:
                    return None
                return {tensor: file.get_tensor(tensor) for tensor in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError:
            return None

    def put(self, name: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors bit for bit."""
        plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        with atomic_path(self.folder / f"{name}.safetensors") as temporary:
            save_file(plain, temporary, metadata={"key": key})

    def clear(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
