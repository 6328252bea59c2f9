"""Where the time of an encoder pass goes, part by part, against the least time that the machine could need.

Counted are the products of a part and the bytes it must move: what it reads and writes once, with everything fused that
can be. Two ceilings, a large matrix product and a large copy, are measured in the same run; the larger of the two
quotients is the floor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.report import seconds_of, synchronize
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.hierarchy import Level
from chorus_core.encoder.inputs import gaussian_channels, voxelize
from chorus_core.encoder.placement import Placement, place
from chorus_core.encoder.pyramid import Pyramid
from chorus_core.encoder.sparse_conv import neighbour_pairs
from chorus_core.gaussians import Gaussians


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at best: products and additions a second, bytes read and written a second."""

    flops: float
    bandwidth: float


@dataclass
class Cost:
    """Floating point operations, and bytes."""

    flops: float = 0.0
    bytes: float = 0.0


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """A matrix product of ``dtype`` and a copy, each the median of several."""
    size = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    count = 1 << (30 if device.type == "cuda" else 26)
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)

    def rate(call: Callable[[], Any], amount: float) -> float:
        call()
        return amount / float(np.median([seconds_of(call, device) for _ in range(7)]))

    return Ceilings(rate(lambda: a @ b, 2.0 * size**3), rate(lambda: target.copy_(source), 8.0 * count))


@torch.inference_mode()
def measure_parts(
    encoder: ChorusEncoder, scene: Gaussians, bases: Mapping[str | None, Tensor | None], times: int, ceilings: Ceilings
) -> list[dict[str, Any]]:
    """A row for each part of one pass over a scene that is on the encoder's device: medians of ``times``."""
    seconds: list[dict[str, float]] = []
    for _ in range(times + 1):
        taken, levels = _one_pass(encoder, scene, bases)
        seconds.append(taken)
    half = encoder.inference.precision.itemsize
    costs = count_stages(encoder, levels, half) | count_heads(encoder, levels, bases, half)
    rows = []
    for part in seconds[0]:
        row: dict[str, Any] = {"part": part, "ms": 1e3 * float(np.median([s[part] for s in seconds[1:]]))}
        if part in costs:
            cost = costs[part]
            floor = 1e3 * max(cost.flops / ceilings.flops, cost.bytes / ceilings.bandwidth)
            row |= {"TFLOP": cost.flops / 1e12, "GB": cost.bytes / 1e9, "floor_ms": floor, "ratio": row["ms"] / floor}
        rows.append(row)
    floors = [row["floor_ms"] for row in rows if "floor_ms" in row]
    total = {"part": "all", "ms": sum(row["ms"] for row in rows), "TFLOP": sum(c.flops for c in costs.values()) / 1e12}
    total |= {"GB": sum(c.bytes for c in costs.values()) / 1e9, "floor_ms": sum(floors)}
    return [*rows, total | {"ratio": total["ms"] / total["floor_ms"]}]


def _one_pass(
    encoder: ChorusEncoder, scene: Gaussians, bases: Mapping[str | None, Tensor | None]
) -> tuple[dict[str, float], list[Level]]:
    """Seconds of each part, the device waited for after each, and the levels."""
    config, inference = encoder.model.config, encoder.inference
    clock = _Clock(encoder.device)
    voxels = voxelize(scene.means, gaussian_channels(scene), config.grid_size, scene.opacities)
    clock.mark("voxels")
    levels = config.hierarchy(voxels.grid, torch.tensor([len(voxels.grid)]))
    clock.mark("hierarchy")
    x = inference.backbone.embedding(voxels.feat)
    clock.mark("stem")
    outputs = []
    for s, level in enumerate(levels):
        x = getattr(inference.backbone.enc, f"enc{s}")(x, level)
        outputs.append(x)
        clock.mark(f"stage {s}")
    pyramid = Pyramid(outputs, [level.cell_of_finer for level in levels[1:]])
    placement = Placement(voxels.voxel_of_point, torch.arange(len(scene), device=encoder.device))
    parts = placement.parts(pyramid, encoder.head_rows)
    clock.mark("placement")
    for head, basis in bases.items():
        width = encoder.width(head) if basis is None else basis.shape[1]
        out = torch.empty((len(scene), width), dtype=torch.float16, device=encoder.device)
        for part, found in zip(
            parts, inference.features(pyramid, [p.voxels for p in parts], {head: basis}), strict=True
        ):
            place(out, part.rows, found[head].values, part.chosen, found[head].length)
        clock.mark(f"head {head}")
    return clock.seconds, levels


class _Clock:
    def __init__(self, device: torch.device) -> None:
        self._device, self.seconds = device, {}
        self._last = self._now()

    def mark(self, part: str) -> None:
        now = self._now()
        self.seconds[part], self._last = now - self._last, now

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()


def count_stages(encoder: ChorusEncoder, levels: list[Level], half: int) -> dict[str, Cost]:
    """Cost of each stage.

    Products: pairs of the convolution, 12 C^2 a voxel of linear layers, 4 K C of attention. Bytes: each of a block's
    three branches reads and writes C values in half precision and updates the residual stream in float32.

    Args:
        half: bytes of a value in half precision.
    """
    config, costs = encoder.model.config, {}
    for s, level in enumerate(levels):
        count, width, depth = len(level), config.enc_channels[s], config.enc_depths[s]
        pairs = count + sum(len(here) for here, _ in neighbour_pairs(level.grid, level.batch, level.extent).values())
        slots = max(len(patches.slots) for patches in level.patches)
        patch = min(config.patch_size, count)
        cost = Cost(
            depth * 2.0 * (pairs * width**2 + 12 * count * width**2 + 2 * slots * patch * width),
            depth * count * width * 3.0 * (2 * half + 8),
        )
        if s:
            finer, before = len(levels[s - 1]), config.enc_channels[s - 1]
            cost.flops += 2.0 * finer * before * width
            cost.bytes += finer * before * 4.0 + count * width * 4.0
        costs[f"stage {s}"] = cost
    return costs


def count_heads(
    encoder: ChorusEncoder, levels: list[Level], bases: Mapping[str | None, Tensor | None], half: int
) -> dict[str, Cost]:
    """Cost of each head: its first layer at every stage's own voxels, its second at the finest; the hidden layer is
    written and read once."""
    config, costs = encoder.model.config, {}
    hidden, count = config.head_ratio * config.feature_dim, len(levels[0])
    for head, basis in bases.items():
        if head is None:
            continue
        width = config.heads[head]
        first = sum(len(level) * c for level, c in zip(levels, config.enc_channels, strict=True))
        flops = 2.0 * hidden * (first + count * len(levels)) + 2.0 * count * hidden * width
        stored = width
        if basis is not None:
            flops, stored = flops + 2.0 * count * width * basis.shape[1], basis.shape[1]
        costs[f"head {head}"] = Cost(flops, 2.0 * half * count * hidden + 4.0 * first + 2.0 * count * stored)
    return costs
