"""The networks of the embedded teacher: an encoder, a feature pyramid, a head for each output.

Two encoders: residual stages, learned from rendered rooms alone, and EfficientNet-Lite0 with ImageNet's weights, which
has seen photographs. The second also names things without having learned any room: what its classifier says of a place,
with ImageNet's classes as points of the text space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chorus_core.io.architecture import check_heads, check_list, check_number, check_whole
from chorus_core.teachers.efficientnet_lite import CLASSES, WIDTHS, EfficientNetLite0

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
        height: image height the network reads, pixels; others are resized to it.
        encoder: ``residual`` (``stem``, ``widths`` and ``depths`` are its) or ``efficientnet_lite0``.
        class_share: of "lang", how much is what the encoder's ImageNet classifier says, in [0, 1]; the rest is learned.
        class_floor: logits below it say nothing.
        class_power: to which power what a logit exceeds the floor by weighs the name of its class.
        class_half: length of the summed names at which the classifier has half of its share.

    Raises:
        ValueError: a value is of another kind or out of range; the message names it.
    """

    heads: Mapping[str, int] = field(default_factory=lambda: {"lang": 384, "gen": 64, "obj": 64})
    stem: int = 32
    widths: tuple[int, ...] = (48, 96, 160, 256)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    pyramid: int = 128
    hidden: int = 256
    text: str = "minilm"
    height: int = 240
    encoder: str = "residual"
    class_share: float = 0.0
    class_floor: float = 1.0
    class_power: float = 2.0
    class_half: float = 1.0

    def __post_init__(self) -> None:
        check_heads(self.heads)
        for name, most in (("stem", 4096), ("pyramid", 4096), ("hidden", 4096), ("height", 8192)):
            check_whole(name, getattr(self, name), 1, most)
        for name, most in (("widths", 4096), ("depths", 64)):
            check_list(name, getattr(self, name), 8, most)
        for name, low in (("class_share", 0.0), ("class_floor", -1e6), ("class_half", 1e-6)):
            check_number(name, getattr(self, name), low, 1e6)
        check_number("class_power", self.class_power, 0.5, 8.0)
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(f"widths {self.widths}, depths {self.depths}: expected as many of both")
        if not isinstance(self.text, str):
            raise ValueError(f"text = {self.text!r:.80}: expected the name of a text encoder")
        if self.encoder not in ("residual", "efficientnet_lite0"):
            raise ValueError(f"encoder {self.encoder!r:.80}: expected residual or efficientnet_lite0")
        if not 0.0 <= self.class_share <= 1.0 or (self.class_share and self.encoder == "residual"):
            raise ValueError(f"class_share {self.class_share}: expected 0 to 1, and 0 for an encoder without classes")

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
    """Stages at strides 4 to 32, a global context vector, and a feature pyramid (Lin et al. 2017) merged at stride 4.

    Subclasses give the stages.

    Args:
        widths: channels of the stages.
    """

    def __init__(self, config: EmbeddedConfig, widths: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.laterals = nn.ModuleList(nn.Conv2d(width, config.pyramid, 1) for width in widths)
        self.context = nn.Linear(widths[-1], config.pyramid)
        self.merge = _convolution(config.pyramid, config.pyramid)
        heads = {name: _head(config.pyramid, config.hidden, dim) for name, dim in config.heads.items()}
        self.heads = nn.ModuleDict(heads)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Outputs of the stages, finest first [B, C, h, w]."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Unit features of each head at a quarter of the size, float32 [B, h, w, D].

        Args:
            images: sRGB in [-1, 1] [B, 3, H, W], H and W multiples of the stride.
        """
        return self.read(self.encode(images))

    def read(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        """As :meth:`forward`, from the outputs of the stages."""
        return self.learned(stages)

    def learned(self, stages: Sequence[Tensor], grid: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """What pyramid and heads say.

        Args:
            grid: rows and columns of the maps, where not those of the first stage.
        """
        last = stages[-1]
        merged = self.laterals[-1](last) + self.context(last.mean(dim=(2, 3)))[:, :, None, None]
        for lateral, output in zip(list(self.laterals)[-2::-1], stages[-2::-1], strict=True):
            merged = lateral(output) + functional.interpolate(merged, size=output.shape[2:], mode="bilinear")
        merged = self.merge(merged)
        if grid is not None and grid != tuple(merged.shape[2:]):
            merged = functional.interpolate(merged, size=grid, mode="bilinear")
        maps = {name: head(merged).float().permute(0, 2, 3, 1) for name, head in self.heads.items()}
        return {name: functional.normalize(features, dim=-1) for name, features in maps.items()}


class ResidualNet(EmbeddedNet):
    """The network whose stages are residual blocks, all of it learned."""

    def __init__(self, config: EmbeddedConfig) -> None:
        super().__init__(config, config.widths)
        self.stem = _convolution(3, config.stem, stride=2)
        stages, inputs = [], config.stem
        for width, depth in zip(config.widths, config.depths, strict=True):
            blocks = [ResidualBlock(inputs if i == 0 else width, width, 2 if i == 0 else 1) for i in range(depth)]
            stages.append(nn.Sequential(*blocks))
            inputs = width
        self.stages = nn.ModuleList(stages)

    def encode(self, images: Tensor) -> list[Tensor]:
        x, outputs = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class LiteNet(EmbeddedNet):
    """The network on EfficientNet-Lite0, whose statistics stay those of photographs.

    Attributes:
        class_text: each ImageNet class in the space of the "lang" head, [1000, D].
    """

    def __init__(self, config: EmbeddedConfig) -> None:
        super().__init__(config, WIDTHS)
        self.encoder = EfficientNetLite0()
        self.register_buffer("class_text", torch.zeros(CLASSES, config.heads["lang"]))

    def train(self, mode: bool = True) -> LiteNet:
        super().train(mode)
        self.encoder.eval()
        return self

    def encode(self, images: Tensor, encoder: EfficientNetLite0 | None = None) -> list[Tensor]:
        """As of all networks; by another encoder, where one is given."""
        return (encoder or self.encoder).features((images * 127.5 + 0.5) / 128.0)  # from [-1, 1] to (RGB - 127) / 128

    def class_features(self, last: Tensor) -> Tensor:
        """What the classifier says of each place: names of classes, summed by powers of their logits above the floor.

        Args:
            last: of the stages [B, C, h, w].

        Returns:
            of a length below 1 that grows with how sure it is, float32 [B, h, w, D].
        """
        says = (self.encoder.class_map(last).float() - self.config.class_floor).clamp(min=0.0)
        summed = says.pow(self.config.class_power).permute(0, 2, 3, 1) @ self.class_text.float()
        return summed / (summed.norm(dim=-1, keepdim=True) + self.config.class_half)

    def read(self, stages: Sequence[Tensor]) -> dict[str, Tensor]:
        maps = self.learned(stages)
        if share := self.config.class_share:
            says = self.class_features(stages[-1]).permute(0, 3, 1, 2)
            says = functional.interpolate(says, size=maps["lang"].shape[1:3], mode="bilinear").permute(0, 2, 3, 1)
            maps["lang"] = functional.normalize((1.0 - share) * maps["lang"] + share * says, dim=-1)
        return maps


def build_net(config: EmbeddedConfig) -> EmbeddedNet:
    """The network of a configuration, with random weights."""
    return LiteNet(config) if config.encoder == "efficientnet_lite0" else ResidualNet(config)


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
