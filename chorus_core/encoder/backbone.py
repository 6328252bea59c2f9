"""Point Transformer V3 encoder (the m2 variant of Sonata and Chorus): blocks, pooling, stages, upcast.

Module names spell the release's state dict, so that its checkpoints load unchanged. Wu et al. 2024 (PTv3),
Wu et al. 2025 (Sonata).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from chorus_core.encoder.acceleration import use_kernels
from chorus_core.encoder.hierarchy import Level, Patches
from chorus_core.encoder.pyramid import Pyramid
from chorus_core.encoder.sparse_conv import SubMConv3d

_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Not cuDNN's, which plans anew for every number of patches: hundreds of milliseconds, and no two scenes are alike."""


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """``x[index]`` for rows of a matrix; its gradient adds without the sort that plain indexing does on a GPU."""
    return x.index_select(0, index.flatten()).view(*index.shape, -1)


def add_norm(
    x: Tensor,
    branch: Tensor,
    inner: nn.LayerNorm | None,
    outer: nn.LayerNorm,
    dtype: torch.dtype,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The end of a residual branch and the norm before the next: ``x + inner(branch[places])``, and ``outer`` of that
    in ``dtype``; both [N, C].

    Args:
        x: [N, C].
        branch: [M, C].
        places: row of the branch for each of x [N]; None takes them as they are.
    """
    if use_kernels(x):
        from chorus_core.encoder import kernels

        return kernels.add_norm(x, branch, inner, outer, dtype, places)
    branch = branch if places is None else _rows(branch, places)
    total = x + (branch if inner is None else apply(inner, branch))
    return total, outer(total).to(dtype)


def apply(module: nn.Linear | nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer on input of another precision than its weights."""
    return module(x.to(module.weight.dtype))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole scenes while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    @property
    def active(self) -> bool:
        return self.training and self.probability > 0.0

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Features [N, C] of a level's voxels, kept or zeroed by the scene they belong to."""
        if not self.active:
            return x
        keep = 1.0 - self.probability
        scenes = (torch.rand(level.scenes, 1, device=x.device) < keep).to(x.dtype) / keep
        return x * scenes[level.batch]


class PatchAttention(nn.Module):
    """Multi-head self-attention within patches of voxels that follow each other along a curve."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, patches: Patches) -> Tensor:
        """Features of the slots of the patches [slots, C] of features of the voxels [N, C]."""
        qkv = self.qkv(_rows(x, patches.slots))
        full, short = qkv[: patches.full_slots], qkv[patches.full_slots :]
        parts = []
        if patches.full_count:
            parts.append(self._attend(full.view(patches.full_count, patches.size, -1)))
        if patches.short_count:
            mask = None if patches.short_mask is None else patches.short_mask[:, None, None, :]
            parts.append(self._attend(short.view(patches.short_count, patches.short_size, -1), mask))
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self.proj(attended)

    def _attend(self, qkv: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of each patch on its own, laid end to end [P * K, C] of [P, K, 3C]."""
        patches, size, width = qkv.shape
        q, k, v = qkv.view(patches, size, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [P, heads, K, head]
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).reshape(patches * size, width // 3)


class FeedForward(nn.Module):
    """Two-layer perceptron with exact GELU."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Convolutional position encoding, attention and feed-forward, each a pre-norm residual branch."""

    def __init__(self, channels: int, heads: int, curve: int, drop_path: float) -> None:
        super().__init__()
        self.curve = curve
        self.cpe = nn.ModuleList(
            (SubMConv3d(channels, channels), nn.Linear(channels, channels), nn.LayerNorm(channels))
        )
        self.norm1 = nn.ModuleList((nn.LayerNorm(channels),))
        self.attn = PatchAttention(channels, heads)
        self.norm2 = nn.ModuleList((nn.LayerNorm(channels),))
        self.mlp = nn.ModuleList((FeedForward(channels),))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Features [N, C] of features [N, C] on a level's voxels."""
        convolve, linear, norm = self.cpe
        dtype = self.attn.qkv.weight.dtype
        x, normed = add_norm(x, linear(convolve(x, level)), norm, self.norm1[0], dtype)
        patches = level.patches[self.curve]
        attended, places = self.attn(normed, patches), patches.back
        if self.drop_path.active:
            attended, places = self.drop_path(_rows(attended, places), level), None
        x, normed = add_norm(x, attended, None, self.norm2[0], dtype, places)
        return x + self.drop_path(self.mlp[0](normed), level)


class Stem(nn.Module):
    """Input features to the first stage's width."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.linear(x)))


class Embedding(nn.Module):
    """Holds the stem under the release's name."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stem = Stem(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x)


class GridPooling(nn.Module):
    """Halve the grid: the largest of each cell's projected features, then norm and GELU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)
        self.norm = nn.ModuleList((nn.LayerNorm(channels),))
        self.act = nn.GELU()

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Features [M, C'] of the coarser level from features [N, C] of the finer."""
        x = apply(self.proj, x)
        cells = level.cell_of_finer[:, None].expand_as(x)
        pooled = x.new_zeros((len(level), x.shape[1])).scatter_reduce(0, cells, x, "amax", include_self=False)
        return self.act(apply(self.norm[0], pooled))


class Stage(nn.Module):
    """Pooling (but for the first stage) and blocks; the blocks take turns with the four curves."""

    def __init__(self, in_channels: int | None, channels: int, depth: int, heads: int, drops: Sequence[float]) -> None:
        super().__init__()
        if in_channels is not None:
            self.down = GridPooling(in_channels, channels)
        self.depth = depth
        for i in range(depth):
            self.add_module(f"block{i}", Block(channels, heads, i % 4, drops[i]))

    def forward(self, x: Tensor, level: Level) -> Tensor:
        if level.cell_of_finer is not None:
            x = self.down(x, level)
        with sdpa_kernel(_KERNELS):
            for i in range(self.depth):
                x = getattr(self, f"block{i}")(x, level)
        return x


class PointTransformer(nn.Module):
    """Encoder of voxel features; the output of every stage, carried down to the finest voxels, is concatenated."""

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = Embedding(in_channels, channels[0])
        drops = [drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        self.enc = nn.Module()
        self.stages = len(channels)
        for s, (width, depth, head_count) in enumerate(zip(channels, depths, heads, strict=True)):
            first = sum(depths[:s])
            stage = Stage(channels[s - 1] if s else None, width, depth, head_count, drops[first : first + depth])
            self.enc.add_module(f"enc{s}", stage)

    def pyramid(self, x: Tensor, levels: Sequence[Level]) -> Pyramid:
        """The output of every stage for input features [N, in_channels] at the finest voxels."""
        x = self.embedding(x)
        outputs = []
        for s, level in enumerate(levels):
            x = getattr(self.enc, f"enc{s}")(x, level)
            outputs.append(x)
        return Pyramid(outputs, [level.cell_of_finer for level in levels[1:]])

    def forward(self, x: Tensor, levels: Sequence[Level]) -> Tensor:
        """Upcast features [N, sum of channels] of input features [N, in_channels] at the finest voxels."""
        return self.pyramid(x, levels).upcast()
