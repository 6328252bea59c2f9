"""How many voxels fit one pass, from a budget in bytes.

The peak of a pass is in its first stage, whose width is least but whose voxels are most, or in a slice of a head.
Counted are the tensors alive at these moments; ``benchmarks/encode.py --memory-gib`` holds the count to what a GPU
measures.
"""

from __future__ import annotations

import math
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
    budget: float,
    config: ModelConfig,
    points: int,
    widths: Iterable[int],
    bytes_per_value: int,
    head_rows: int,
    kept_width: int = 0,
) -> PassPlan:
    """The largest passes that keep an encode under ``budget``, to a tenth.

    Args:
        budget: GiB for everything that an encode allocates: weights, output, and what a pass needs.
        config: of the model.
        points: Gaussians or points of the whole scene.
        widths: of the outputs of each of them.
        bytes_per_value: of products: 2 in half precision, 4 in single.
        head_rows: most voxels of a slice of a head; fewer where that leaves room for many more of a pass.
        kept_width: of features that are summed over passes, see :mod:`chorus_core.encoder.fragments`.

    Raises:
        ValueError: the budget does not even hold the output and a small pass.
    """
    fixed = points * (2 * sum(widths) + 4 * config.in_channels + 64) + weight_bytes(config, bytes_per_value)
    kept = kept_width * (4 + 4 + 2 + 4)  # of the points, of the voxels, of a pass, and the quotient
    stage, output = stage_bytes(config, bytes_per_value) + kept, output_bytes(config) + kept
    room = budget * GIB / _SLACK - fixed
    plans = []
    while not plans or head_rows > _LEAST_ROWS:
        head_rows = head_rows if not plans else head_rows // 2
        head = slice_bytes(config, bytes_per_value, head_rows)
        plans.append(PassPlan(int(min(room / stage, (room - head) / output)), head_rows))
    most, least = max(plan.voxels for plan in plans), min(points, 4 * config.patch_size)
    if most < least:
        needed = _SLACK * (fixed + max(least * stage, least * output + head)) / GIB
        advice = f"expected at least {math.ceil(100 * needed) / 100:.2f} for {points} Gaussians"
        raise ValueError(f"memory of {budget:g} GiB: {advice}")
    # Small slices are slow: the plan of the largest that gives up a tenth of the voxels at most.
    enough = max(0.9 * min(most, points), least)
    return next(plan for plan in plans if plan.voxels >= enough)


def stage_bytes(config: ModelConfig, bytes_per_value: int) -> float:
    """Bytes a voxel in the first stage: residual stream before and after, its norm, and the feed-forward's two hidden
    layers; geometry and input."""
    width = config.enc_channels[0]
    return width * (2 * 4 + bytes_per_value * (1 + 4 + 4)) + _GEOMETRY + 4 * config.in_channels


def output_bytes(config: ModelConfig) -> float:
    """Bytes a voxel while heads read: features of all stages, as they are and centred; geometry."""
    return sum(8 * width * 0.25**s for s, width in enumerate(config.enc_channels)) + _GEOMETRY


def slice_bytes(config: ModelConfig, bytes_per_value: int, rows: int) -> float:
    """Bytes of a slice of the widest head: hidden layer (twice where no kernel makes it), its coarser share, and the
    features three times over."""
    hidden = config.head_ratio * config.feature_dim
    widest = max(config.heads.values(), default=0)
    layers = 1.6 if bytes_per_value == 2 else 2.6
    return rows * (hidden * bytes_per_value * layers + widest * (2 * bytes_per_value + 4 + 2))


def weight_bytes(config: ModelConfig, bytes_per_value: int) -> float:
    """Bytes of a model's weights, nearly all of them in blocks and heads."""
    blocks = sum(
        depth * width * width * (12 + 27) for depth, width in zip(config.enc_depths, config.enc_channels, strict=True)
    )
    hidden = config.head_ratio * config.feature_dim
    heads = sum(hidden * (config.feature_dim + width) for width in config.heads.values())
    return bytes_per_value * (blocks + heads)
