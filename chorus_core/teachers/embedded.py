"""The teacher that comes with the package: one small network with a language, a generalist and an object-aware head.

It is trained by :mod:`training.teach` on rendered rooms. Its "lang" features share the space of a sentence encoder,
its "gen" features tell surface points apart whatever the view (learned without labels), its "obj" features tell things
apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import read_json
from chorus_core.io.errors import reading
from chorus_core.io.weights import check_fit, read_weights
from chorus_core.teachers.base import Teacher, TeacherError
from chorus_core.teachers.embedded_net import (
    STRIDE,
    EmbeddedConfig,
    EmbeddedNet,
    build_net,
    layout_on,
    prepare_images,
)

__all__ = [
    "STRIDE", "EmbeddedConfig", "EmbeddedNet", "EmbeddedTeacher", "build_net", "layout_on", "load_embedded",
    "load_embedded_net", "prepare_images", "write_embedded",
]  # fmt: skip

SHIPPED = Path(__file__).resolve().parent / "models" / "embedded"
"""The teacher that comes with the package."""


class EmbeddedTeacher(Teacher):
    """The embedded network behind the interface of all teachers."""

    def __init__(self, net: EmbeddedNet, name: str, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.name = name
        self.heads = dict(net.config.heads)
        self.text = net.config.text
        self._net = net.eval().requires_grad_(False).to(self.device, memory_format=layout_on(self.device))

    @torch.inference_mode()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        x = prepare_images(images.to(self.device), self._net.config.height)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            return self._net(x.contiguous(memory_format=layout_on(self.device)))


def load_embedded(name_or_path: str | Path = "embedded", device: torch.device | str = "cpu") -> EmbeddedTeacher:
    """The shipped teacher by its name, or one from a folder that :func:`write_embedded` wrote.

    Raises:
        TeacherError: missing, damaged (the hash differs), or of another architecture.
    """
    net, name = _load(name_or_path)
    return EmbeddedTeacher(net, name, device)


def load_embedded_net(name_or_path: str | Path) -> EmbeddedNet:
    """The network of :func:`load_embedded` alone, to go on training."""
    return _load(name_or_path)[0]


def _load(name_or_path: str | Path) -> tuple[EmbeddedNet, str]:
    """Network and name. Weights are stored in half precision."""
    folder = SHIPPED if str(name_or_path) == SHIPPED.name else Path(name_or_path)
    file, weights = folder / "config.json", folder / "model.safetensors"
    try:
        description = read_json(file, error=TeacherError)
        digest = _sha256(weights)
    except OSError as error:
        raise TeacherError(f"embedded teacher {str(name_or_path)!r}: looked in {folder}: {error}") from error
    name, values = description.get("name", folder.name), description.get("teacher")
    if not isinstance(values, dict) or not isinstance(name, str):
        raise TeacherError(f"{file}: expected an object with an object 'teacher', and a text as 'name'")
    if digest != description.get("sha256"):
        raise TeacherError(f"{folder}: model.safetensors has sha256 {digest}, not the one of its config.json")
    state = read_weights(weights, TeacherError)
    with reading(file, TeacherError):
        config = EmbeddedConfig.from_dict(values)
        with torch.device("meta"):  # no memory before the weights are known to fit
            expected = build_net(config).state_dict()
        check_fit(state, expected, folder, TeacherError)
        net = build_net(config)
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return net, f"{name}-{digest[:12]}"


def write_embedded(folder: str | Path, net: EmbeddedNet, description: Mapping[str, Any]) -> None:
    """Write config and weights (half precision)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: (v.half() if v.is_floating_point() else v).cpu().contiguous() for k, v in net.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(state, temporary)
        digest = _sha256(temporary)
    content = {**description, "teacher": asdict(net.config), "sha256": digest}
    with atomic_path(folder / "config.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
