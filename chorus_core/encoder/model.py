"""The trainable whole: backbone and one projector for each teacher, built from a small typed description."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from chorus_core.encoder.backbone import PointTransformer
from chorus_core.encoder.hierarchy import Level, build_hierarchy
from chorus_core.io.architecture import check_heads, check_list, check_number, check_whole

_STAGES, _BLOCKS, _WIDTH = 8, 64, 4096
"""At most: stages of a model, and a stage's blocks and width. Several times the release's; a mistaken description must
not cost minutes before it is found not to fit its weights."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of a Chorus model. Defaults are the release's (arXiv 2512.17817).

    Attributes:
        in_channels: 11 for Gaussians (colour, opacity, quaternion, scale), 9 for points (coord, colour, normal).
        enc_channels, enc_depths, enc_num_head: width, blocks and attention heads of each stage.
        patch_size: voxels of an attention patch.
        heads: output width for each teacher.
        head_ratio: hidden width of a projector over its input width.
        raw_heads: teachers whose prediction is not L2-normalised.
        shuffle_orders: draw each stage's curves at random, as the release does; not repeatable without a seed.
        grid_size: edge of the voxels the model was trained on, metres.

    Raises:
        ValueError: a value is of another kind or out of range; the message names it.
    """

    in_channels: int = 11
    enc_channels: tuple[int, ...] = (48, 96, 192, 384, 512)
    enc_depths: tuple[int, ...] = (3, 3, 3, 12, 3)
    enc_num_head: tuple[int, ...] = (3, 6, 12, 24, 32)
    patch_size: int = 1024
    heads: Mapping[str, int] = field(default_factory=lambda: {"lang": 1152, "dino": 1024})
    head_ratio: int = 4
    raw_heads: tuple[str, ...] = ("pe",)
    shuffle_orders: bool = False
    grid_size: float = 0.02

    def __post_init__(self) -> None:
        stages = {name: getattr(self, name) for name in ("enc_channels", "enc_depths", "enc_num_head")}
        for name, most in zip(stages, (_WIDTH, _BLOCKS, _WIDTH), strict=True):
            check_list(name, stages[name], _STAGES, most)
        if not len(self.enc_channels) == len(self.enc_depths) == len(self.enc_num_head) > 0:
            raise ValueError("enc_channels, enc_depths and enc_num_head must have the same, positive length")
        for name, most in (("in_channels", 1024), ("patch_size", 1 << 16), ("head_ratio", 16)):
            check_whole(name, getattr(self, name), 1, most)
        check_heads(self.heads)
        check_list("raw_heads", self.raw_heads, 32)
        if not isinstance(self.shuffle_orders, bool):
            raise ValueError(f"shuffle_orders = {self.shuffle_orders!r:.80}: expected true or false")
        check_number("grid_size", self.grid_size, 1e-4, 10.0)
        for width, heads in zip(self.enc_channels, self.enc_num_head, strict=True):
            if width % heads:
                raise ValueError(f"enc_num_head {heads} does not divide enc_channels {width}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """From plain JSON values; keys this version does not know are ignored (they describe, not build)."""
        known = {f.name for f in fields(cls)}
        kept = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**kept)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def feature_dim(self) -> int:
        """Width of the upcast features."""
        return sum(self.enc_channels)

    def hierarchy(
        self, grid: Tensor, offset: Tensor, curves: Sequence[Sequence[int]] | None = None, seed: int = 0
    ) -> list[Level]:
        """The geometry of a pass over voxels [N, 3] of scenes that end at ``offset`` [B].

        Args:
            curves: order of the four curves at each stage; drawn from ``seed`` where the configuration shuffles
                them, otherwise as :data:`~chorus_core.encoder.serialization.ORDERS` lists them.
        """
        if curves is None:
            generator = torch.Generator().manual_seed(seed)
            shuffled = [torch.randperm(4, generator=generator).tolist() for _ in self.enc_depths]
            curves = shuffled if self.shuffle_orders else [range(4)] * len(self.enc_depths)
        used = [list(order)[: min(depth, 4)] for order, depth in zip(curves, self.enc_depths, strict=True)]
        return build_hierarchy(grid, offset, used, self.patch_size)


class Projector(nn.Module):
    """From upcast features to one teacher's space: norm, linear, GELU, linear."""

    def __init__(self, in_dim: int, out_dim: int, ratio: int, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.input_norm = nn.LayerNorm(in_dim)
        self.mlp_head = nn.Sequential(nn.Linear(in_dim, ratio * in_dim), nn.GELU(), nn.Linear(ratio * in_dim, out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Teacher features [N, d_t] of upcast features [N, feature_dim]; unit length unless the teacher is raw."""
        y = self.mlp_head(self.input_norm(x))
        return nn.functional.normalize(y.float(), dim=-1) if self.normalize else y


class ChorusModel(nn.Module):
    """Backbone and projectors; keys and shapes of its state dict are the release's."""

    def __init__(self, config: ModelConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("_teacher_pointer", torch.zeros(1))
        self.backbone = PointTransformer(
            config.in_channels, config.enc_channels, config.enc_depths, config.enc_num_head, drop_path
        )
        self.projectors = nn.ModuleDict(
            {
                name: Projector(config.feature_dim, dim, config.head_ratio, name not in config.raw_heads)
                for name, dim in config.heads.items()
            }
        )

    def hierarchy(
        self, grid: Tensor, offset: Tensor, curves: Sequence[Sequence[int]] | None = None, seed: int = 0
    ) -> list[Level]:
        """:meth:`ModelConfig.hierarchy` of this model."""
        return self.config.hierarchy(grid, offset, curves, seed)

    def forward(self, feat: Tensor, levels: list[Level]) -> Tensor:
        """Upcast features [N, feature_dim] of voxel features [N, in_channels]."""
        return self.backbone(feat, levels)

    def project(self, upcast: Tensor, head: str, rows: int = 65_536) -> Tensor:
        """One teacher's prediction [N, d_t], computed in slices: the hidden layer is many times wider than both ends.

        Raises:
            KeyError: the model has no such head; the message lists those it has.
        """
        if head not in self.projectors:
            raise KeyError(f"no head {head!r}: the model has {sorted(self.projectors)}")
        projector = self.projectors[head]
        if upcast.shape[0] <= rows:
            return projector(upcast)
        return torch.cat([projector(part) for part in upcast.split(rows)])
