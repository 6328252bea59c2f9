"""Space-filling curves: the order in which a Point Transformer V3 reads a sparse voxel grid.

Codes follow Wu et al. 2024 (PTv3): Morton ("z") and Hilbert, each also with x and y swapped ("-trans").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.encoder.acceleration import use_kernels

ORDERS = ("z", "z-trans", "hilbert", "hilbert-trans")
"""The four curves, in the order in which the blocks of a stage take turns."""

_MAX_DEPTH = 16  # 3 x 16 bits of code leave 15 for the batch index in an int64
LARGEST_EXTENT = (1 << _MAX_DEPTH) - 1
"""Cells along an axis at most."""

_SCENE_BITS, _TAG_BITS = 10, 5  # of that, where several curves are sorted as one


def grid_depth(extent: Sequence[int]) -> int:
    """Bits that each axis of a grid takes: the bit length of the largest number of cells along one.

    Raises:
        ValueError: the codes would not fit.
    """
    depth = int(max(extent)).bit_length()
    if depth > _MAX_DEPTH:
        raise ValueError(
            f"{max(extent)} voxels along an axis: expected {LARGEST_EXTENT} at most, with a larger grid_size"
        )
    return depth


def encode(grid: Tensor, batch: Tensor, depth: int, order: str) -> Tensor:
    """Position of each voxel along a curve, scene by scene, int64 [N].

    Args:
        grid: non-negative integer coordinates [N, 3].
        batch: scene of each voxel [N].
        depth: bits an axis, see :func:`grid_depth`.
        order: one of :data:`ORDERS`.
    """
    if order not in ORDERS:
        raise ValueError(f"order {order!r}: expected one of {ORDERS}")
    coords, batch = grid.long(), batch.long()
    if use_kernels(coords):
        from chorus_core.encoder.kernels import curve_codes

        return curve_codes(coords.contiguous(), batch.contiguous(), depth, [_kind(order)], torch.empty_like(batch))
    return encode_torch(coords, batch, depth, *_kind(order))


def _kind(order: str) -> tuple[bool, bool]:
    """Whether a curve is Hilbert's, and whether x and y change places."""
    return order.startswith("hilbert"), order.endswith("-trans")


@dataclass(frozen=True)
class Walks:
    """Voxels of a level and the curves that are to be walked there.

    Attributes:
        grid: int64 [N, 3].
        batch: scene of each voxel, int64 [N].
        depth: bits an axis.
        orders: of :data:`ORDERS`.
    """

    grid: Tensor
    batch: Tensor
    depth: int
    orders: tuple[str, ...]


def walk(levels: Sequence[Walks], scenes: int) -> list[list[Tensor]]:
    """The voxels of each level in the order of each of its curves, int64 [N].

    A GPU sorts all of them as one: a sort is a dozen launches, and small ones cost no more than that.

    Args:
        scenes: how many there are.
    """
    tags = sum(len(level.orders) for level in levels)
    if not tags or not use_kernels(levels[0].grid) or scenes > 1 << _SCENE_BITS or tags > 1 << _TAG_BITS:
        return [[torch.argsort(encode(v.grid, v.batch, v.depth, order)) for order in v.orders] for v in levels]
    from chorus_core.encoder.kernels import curve_codes

    keys = levels[0].batch.new_empty(sum(len(level.orders) * len(level.batch) for level in levels))
    starts: list[list[int]] = []
    start = tag = 0
    for level in levels:
        count = len(level.batch)
        starts.append([start + number * count for number in range(len(level.orders))])
        if level.orders:
            kinds = [_kind(order) for order in level.orders]
            curve_codes(level.grid.contiguous(), level.batch, level.depth, kinds, keys[start:], tag)
        start, tag = start + len(level.orders) * count, tag + len(level.orders)
    order = torch.argsort(keys)
    return [
        [order[first : first + len(level.batch)] - first for first in firsts]
        for level, firsts in zip(levels, starts, strict=True)
    ]


def morton(grid: Tensor) -> Tensor:
    """Position of voxels [N, 3] of one scene along Morton's curve, int64 [N]. A cell of twice the size holds those
    that agree in all but the last three bits."""
    return encode(grid, torch.zeros_like(grid[:, 0]), _MAX_DEPTH, "z")


def encode_torch(coords: Tensor, batch: Tensor, depth: int, hilbert: bool, swapped: bool) -> Tensor:
    """The plain twin of :func:`chorus_core.encoder.kernels.curve_codes`, int64 [N]."""
    if swapped:
        coords = coords[:, [1, 0, 2]]
    code = _hilbert(coords, depth) if hilbert else _interleave(coords, depth)
    return (batch << (3 * depth)) | code


def _interleave(coords: Tensor, depth: int) -> Tensor:
    """Morton code: bits of x, y, z in turn, x the most significant of each triple, int64 [N] of [N, 3]."""
    x, y, z = _spread(coords & ((1 << depth) - 1)).unbind(1)
    return x << 2 | y << 1 | z


def _spread(values: Tensor) -> Tensor:
    """Two zeros put before each of 16 bits, by halves (as in the tables of Morton codes)."""
    for shift, mask in ((16, 0xFF0000FF), (8, 0xF00F00F00F), (4, 0xC30C30C30C3), (2, 0x249249249249)):
        values = (values | values << shift) & mask
    return values


def _hilbert(coords: Tensor, depth: int) -> Tensor:
    """Hilbert index by Skilling's transform (Skilling 2004, "Programming the Hilbert curve"), int64 [N] of [N, 3]."""
    x = list(coords.clone().unbind(1))
    for bit in range(depth - 1, -1, -1):
        low = (1 << bit) - 1
        for axis in range(3):
            is_set = ((x[axis] >> bit) & 1).bool()
            # Where the bit is set the lower bits of x invert, elsewhere they are exchanged with this axis'.
            exchanged = torch.where(is_set, 0, (x[0] ^ x[axis]) & low)
            x[0] = torch.where(is_set, x[0] ^ low, x[0] ^ exchanged)
            x[axis] = x[axis] ^ exchanged if axis else x[0]
    return _gray_to_binary(_interleave(torch.stack(x, dim=1), depth), 3 * depth)


def _gray_to_binary(gray: Tensor, bits: int) -> Tensor:
    shift = 1
    while shift < bits:
        gray = gray ^ (gray >> shift)
        shift *= 2
    return gray
