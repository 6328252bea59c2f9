"""How many voxels fit one pass, from a budget in bytes.

The peak of a pass is in its first stage, whose width is least but whose voxels are most, or in a slice of a head.
Counted are the tensors alive at these moments; ``benchmarks/encode.py --memory-gib`` holds the count to what a GPU
measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from chorus_core.encoder.model import ModelConfig

GIB = 2**30
_GEOMETRY = 27 * 4 + 27 * 4 + 200
"""Bytes a voxel: pairs of the convolution and their masks, orders and slots of four curves, coordinates and keys."""
_SLACK = 1.1
"""Allocators round up, and coarser stages have more than a quarter of the voxels where a surface is rough."""

_LEAST_ROWS = 4096


class PassPlan(NamedTuple):
    """Most voxels of a pass, and of a slice of a head."""

    voxels: int
    head_rows: int


def plan_pass(
    budget: float, config: ModelConfig, points: int, widths: Iterable[int], bytes_per_value: int, head_rows: int
) -> PassPlan:
    """The largest passes that keep an encode under ``budget``.

    Args:
        budget: GiB for everything that an encode allocates: weights, output, and what a pass needs.
        config: of the model.
        points: Gaussians or points of the whole scene.
        widths: of the outputs of each of them.
        bytes_per_value: of products: 2 in half precision, 4 in single.
        head_rows: most voxels of a slice of a head; fewer where it would take more than a quarter of the budget.

    Raises:
        ValueError: the budget does not even hold the output and a small pass.
    """
    while head_rows > _LEAST_ROWS and slice_bytes(config, bytes_per_value, head_rows) > budget * GIB / 4:
        head_rows //= 2
    fixed = points * (2 * sum(widths) + 4 * config.in_channels + 64) + weight_bytes(config, bytes_per_value)
    stage, output = stage_bytes(config, bytes_per_value), output_bytes(config)
    head = slice_bytes(config, bytes_per_value, head_rows)
    room = budget * GIB / _SLACK - fixed
    voxels, least = int(min(room / stage, (room - head) / output)), min(points, 4 * config.patch_size)
    if voxels < least:
        needed = _SLACK * (fixed + max(least * stage, least * output + head)) / GIB
        raise ValueError(f"memory of {budget:g} GiB: expected at least {needed:.2f} for {points} Gaussians")
    return PassPlan(voxels, head_rows)


def stage_bytes(config: ModelConfig, bytes_per_value: int) -> float:
    """Bytes a voxel in the first stage: residual stream before and after, its norm, and the feed-forward's two hidden
    layers; geometry and input."""
    width = config.enc_channels[0]
    return width * (2 * 4 + bytes_per_value * (1 + 4 + 4)) + _GEOMETRY + 4 * config.in_channels


def output_bytes(config: ModelConfig) -> float:
    """Bytes a voxel while heads read: features of all stages, as they are and centred; geometry."""
    return sum(8 * width * 0.25**s for s, width in enumerate(config.enc_channels)) + _GEOMETRY


def slice_bytes(config: ModelConfig, bytes_per_value: int, rows: int) -> float:
    """Bytes of a slice of the widest head: hidden layer, its coarser share, and the features three times over."""
    hidden = config.head_ratio * config.feature_dim
    widest = max(config.heads.values(), default=0)
    return rows * (hidden * bytes_per_value * 1.6 + widest * (2 * bytes_per_value + 4 + 2))


def weight_bytes(config: ModelConfig, bytes_per_value: int) -> float:
    """Bytes of a model's weights, nearly all of them in blocks and heads."""
    blocks = sum(
        depth * width * width * (12 + 27) for depth, width in zip(config.enc_depths, config.enc_channels, strict=True)
    )
    hidden = config.head_ratio * config.feature_dim
    heads = sum(hidden * (config.feature_dim + width) for width in config.heads.values())
    return bytes_per_value * (blocks + heads)
