"""The teacher that comes with the package: one small network with a language, a generalist and an object-aware head.

It is trained by :mod:`training.teach` on rendered rooms. Its "lang" features share the space of a sentence encoder,
its "gen" features tell surface points apart whatever the view (learned without labels), its "obj" features tell things
apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from chorus_core.io.atomic import atomic_path
from chorus_core.teachers.base import Teacher, TeacherError

SHIPPED = Path(__file__).resolve().parent / "models" / "embedded"
"""The teacher that comes with the package."""

STRIDE = 4
"""Pixels of the image between cells of the feature maps."""


@dataclass(frozen=True)
class EmbeddedConfig:
    """Architecture of the embedded teacher.

    Attributes:
        heads: width of each head's unit features.
        stem: channels of the first convolution, at half resolution.
        widths, depths: channels and residual blocks of the stages at strides 4, 8, 16 and 32.
        pyramid: channels of the merged map at stride 4.
        hidden: width of each head's hidden layer.
        text: text encoder whose space "lang" shares.
        height: image height the network was trained at, pixels; others are resized to it.
    """

    heads: Mapping[str, int] = field(default_factory=lambda: {"lang": 384, "gen": 64, "obj": 64})
    stem: int = 32
    widths: tuple[int, ...] = (48, 96, 160, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    pyramid: int = 128
    hidden: int = 256
    text: str = "minilm"
    height: int = 240

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EmbeddedConfig:
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, hidden, 1), nn.GELU(), nn.Conv2d(hidden, outputs, 1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip connection (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        nn.init.zeros_(self.second[1].weight)  # starts as the identity, which trains faster
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.skip(x) + self.second(self.first(x)))


class EmbeddedNet(nn.Module):
    """Residual stages, a global context vector, and a feature pyramid (Lin et al. 2017) merged at stride 4."""

    def __init__(self, config: EmbeddedConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _convolution(3, config.stem, stride=2)
        stages, laterals, inputs = [], [], config.stem
        for width, depth in zip(config.widths, config.depths, strict=True):
            blocks = [ResidualBlock(inputs if i == 0 else width, width, 2 if i == 0 else 1) for i in range(depth)]
            stages.append(nn.Sequential(*blocks))
            laterals.append(nn.Conv2d(width, config.pyramid, 1))
            inputs = width
        self.stages, self.laterals = nn.ModuleList(stages), nn.ModuleList(laterals)
        self.context = nn.Linear(inputs, config.pyramid)
        self.merge = _convolution(config.pyramid, config.pyramid)
        heads = {name: _head(config.pyramid, config.hidden, dim) for name, dim in config.heads.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Unit features of each head at a quarter of the size, float32 [B, h, w, D].

        Args:
            images: sRGB in [-1, 1] [B, 3, H, W], H and W multiples of the stride.
        """
        x = self.stem(images)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        merged = self.laterals[-1](x) + self.context(x.mean(dim=(2, 3)))[:, :, None, None]
        for lateral, output in zip(list(self.laterals)[-2::-1], outputs[-2::-1], strict=True):
            merged = lateral(output) + functional.interpolate(merged, size=output.shape[2:], mode="bilinear")
        merged = self.merge(merged)
        maps = {name: head(merged).float().permute(0, 2, 3, 1) for name, head in self.heads.items()}
        return {name: functional.normalize(features, dim=-1) for name, features in maps.items()}


def prepare_images(images: Tensor, height: int) -> Tensor:
    """Images uint8 [B, H, W, 3] as the network reads them: in [-1, 1], of that height, the width a multiple of 4."""
    x = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    if x.shape[2] == height and x.shape[3] % STRIDE == 0:
        return x
    width = max(STRIDE, round(x.shape[3] * height / x.shape[2] / STRIDE) * STRIDE)
    return functional.interpolate(x, size=(height, width), mode="bilinear", antialias=True)


def layout_on(device: torch.device) -> torch.memory_format:
    """How images lie in memory: channels last on CUDA, where convolutions are faster for it, contiguous elsewhere.

    oneDNN 3.12 (torch 2.14) corrupts memory in the backward pass of a strided 1x1 convolution in channels_last on
    processors with AVX-512.
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


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
    folder = SHIPPED if str(name_or_path) == SHIPPED.name else Path(name_or_path)
    try:
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = EmbeddedConfig.from_dict(description["teacher"])
        digest = _sha256(folder / "model.safetensors")
        if digest != description["sha256"]:
            raise TeacherError(f"{folder}: model.safetensors has sha256 {digest}, not the one of its config.json")
        net = EmbeddedNet(config)
        state = load_file(folder / "model.safetensors")
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except TeacherError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise TeacherError(f"embedded teacher {str(name_or_path)!r}: looked in {folder}: {error}") from error
    return EmbeddedTeacher(net, f"{description.get('name', folder.name)}-{digest[:12]}", device)


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
