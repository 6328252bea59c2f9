"""The networks that are trained: a linear layer, and a decoder of the encoder's own kind.

The decoder is PTv3's (Wu et al. 2024): from the coarsest stage up, features are carried to the finer voxels, added to
the encoder's output there, and refined by blocks. Sonata (Wu et al. 2025) probes with depths (2, 2, 2, 2) and channels
(64, 96, 192, 384).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from chorus_core.encoder.backbone import Block
from chorus_core.encoder.hierarchy import Level
from chorus_core.encoder.model import ChorusModel, ModelConfig
from training.probes.config import ProbeConfig


class LinearHead(nn.Module):
    """One linear layer on upcast features. Features are standardised first, which another linear layer could undo."""

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("deviation", torch.ones(feature_dim))
        self.linear = nn.Linear(feature_dim, classes)

    @torch.no_grad()
    def standardise(self, features: Tensor, rows: int = 65_536) -> None:
        """Take mean and deviation from features [N, feature_dim], in float64 slices."""
        count = max(len(features), 1)
        total = sum(part.double().sum(dim=0) for part in features.split(rows))
        mean = total / count
        variance = sum((part.double() - mean).square().sum(dim=0) for part in features.split(rows)) / count
        self.mean.copy_(mean)
        self.deviation.copy_(variance.sqrt().clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return self.linear((features.float() - self.mean) / self.deviation)


class Unpool(nn.Module):
    """Coarse features carried to the finer voxels and added to the encoder's features there."""

    def __init__(self, coarse_channels: int, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(coarse_channels, channels), nn.LayerNorm(channels), nn.GELU())
        self.proj_skip = nn.Sequential(nn.Linear(skip_channels, channels), nn.LayerNorm(channels), nn.GELU())

    def forward(self, coarse: Tensor, skip: Tensor, cell_of_finer: Tensor) -> Tensor:
        """[V, C] of coarse features [V', C'], the encoder's [V, C''], and the coarse voxel of each finer one [V]."""
        return self.proj(coarse)[cell_of_finer] + self.proj_skip(skip)


class Decoder(nn.Module):
    """Stages of unpooling and blocks, from the coarsest level of the encoder to the finest, and a linear layer.

    Raises:
        ValueError: more encoder stages than the configuration has decoder stages for.
    """

    def __init__(self, encoder: ModelConfig, classes: int, config: ProbeConfig) -> None:
        super().__init__()
        self.stages = len(encoder.enc_channels) - 1
        if self.stages > len(config.decoder_channels):
            raise ValueError(
                f"decoder_channels has {len(config.decoder_channels)} stages: the encoder needs {self.stages}"
            )
        coarse = encoder.enc_channels[-1]
        for s in reversed(range(self.stages)):
            width, depth, heads = config.decoder_channels[s], config.decoder_depths[s], config.decoder_heads[s]
            curves = min(encoder.enc_depths[s], 4)  # those that the encoder's levels are cut along
            self.add_module(f"up{s}", Unpool(coarse, encoder.enc_channels[s], width))
            blocks = [Block(width, heads, i % curves, config.drop_path) for i in range(depth)]
            self.add_module(f"block{s}", nn.ModuleList(blocks))
            coarse = width
        self.linear = nn.Linear(coarse, classes)

    def forward(self, outputs: Sequence[Tensor], levels: Sequence[Level]) -> Tensor:
        """Logits [V, classes] at the finest voxels from the encoder's output at every stage, finest first."""
        x = outputs[-1]
        for s in reversed(range(self.stages)):
            x = getattr(self, f"up{s}")(x, outputs[s], levels[s + 1].cell_of_finer)
            for block in getattr(self, f"block{s}"):
                x = block(x, levels[s])
        return self.linear(x)


class SegmentationNetwork(nn.Module):
    """Encoder and head as one network.

    Args:
        model: the encoder; its projectors have no part.
        head: :class:`LinearHead` or :class:`Decoder`.
        frozen: whether the encoder stays as it is: no gradient, and no stochastic depth either.
    """

    def __init__(self, model: ChorusModel, head: LinearHead | Decoder, frozen: bool) -> None:
        super().__init__()
        self.model, self.head, self.frozen = model, head, frozen

    def train(self, mode: bool = True) -> SegmentationNetwork:
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters that an optimiser changes; the projectors never are."""
        named = list(self.head.named_parameters(prefix="head"))
        return named if self.frozen else named + list(self.model.backbone.named_parameters(prefix="backbone"))

    def forward(self, feat: Tensor, levels: list[Level]) -> Tensor:
        """Logits [V, classes] of voxel features [V, in_channels]."""
        with torch.no_grad() if self.frozen else nullcontext():
            if isinstance(self.head, LinearHead):
                features = self.model(feat, levels)
            else:
                features = self.model.backbone.pyramid(feat, levels).features
        return self.head(features) if isinstance(self.head, LinearHead) else self.head(features, levels)
