"""Triton kernels for what torch does in many passes over memory, or many launches. CUDA only, without gradients.

Each has a plain torch twin where it is used, which runs elsewhere and which the tests hold it to. They are compiled
at first use, about a second each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_LANES = 1024  # voxels of a program
_VOXELS = 64  # of a block of a convolution
_ROWS, _COLUMNS = 64, 64  # block of a hidden layer; larger ones leave too few in flight


@triton.jit
def _spread(bits):
    """Two zeros put before each of 16 bits."""
    bits = (bits | bits << 16) & 0xFF0000FF
    bits = (bits | bits << 8) & 0xF00F00F00F
    bits = (bits | bits << 4) & 0xC30C30C30C3
    return (bits | bits << 2) & 0x249249249249


@triton.jit
def _codes_kernel(grid, batch, out, count, depth, kinds, first_tag, lanes: tl.constexpr):
    voxel = tl.program_id(0).to(tl.int64) * lanes + tl.arange(0, lanes)
    there = voxel < count
    curve = tl.program_id(1)
    kind = (kinds >> 2 * curve) & 3
    swapped = kind >> 1
    x = tl.load(grid + 3 * voxel + swapped, there, 0)
    y = tl.load(grid + 3 * voxel + (1 - swapped), there, 0)
    z = tl.load(grid + 3 * voxel + 2, there, 0)
    hilbert = kind & 1
    for step in range(depth * hilbert):
        bit = depth - 1 - step
        low = (1 << bit) - 1
        x = tl.where((x >> bit) & 1 == 1, x ^ low, x)
        is_set = (y >> bit) & 1 == 1
        swap = tl.where(is_set, 0, (x ^ y) & low)
        x, y = tl.where(is_set, x ^ low, x ^ swap), y ^ swap
        is_set = (z >> bit) & 1 == 1
        swap = tl.where(is_set, 0, (x ^ z) & low)
        x, z = tl.where(is_set, x ^ low, x ^ swap), z ^ swap
    code = _spread(x) << 2 | _spread(y) << 1 | _spread(z)
    binary = code ^ (code >> 1)
    binary ^= binary >> 2
    binary ^= binary >> 4
    binary ^= binary >> 8
    binary ^= binary >> 16
    binary ^= binary >> 32
    code = tl.where(hilbert == 1, binary, code)
    code |= tl.load(batch + voxel, there, 0) << (3 * depth)
    code |= (first_tag + curve).to(tl.int64) << 58
    tl.store(out + curve.to(tl.int64) * count + voxel, code, there)


def curve_codes(
    grid: Tensor, batch: Tensor, depth: int, curves: Sequence[tuple[bool, bool]], out: Tensor, first_tag: int = 0
) -> Tensor:
    """Position of each voxel along curves, int64 [curves, N]; see :func:`chorus_core.encoder.serialization.encode`.

    Args:
        grid: int64, contiguous [N, 3].
        batch: int64 [N].
        curves: at most 15, each whether it is Hilbert's instead of Morton's, and whether x and y change places.
        out: int64, contiguous, of that many elements.
        first_tag: of the first curve; the others count on. A tag stands in the bits from 58 on, so that several curves
            can be sorted as one.
    """
    kinds = sum((int(hilbert) | 2 * int(swapped)) << 2 * i for i, (hilbert, swapped) in enumerate(curves))
    programs = (triton.cdiv(len(grid), _LANES), len(curves))
    _codes_kernel[programs](grid, batch, out, len(grid), depth, kinds, first_tag, _LANES)
    return out


@triton.jit
def _norm_rows(x, inside, width, weight, bias, column, epsilon):
    """Layer norm of each row of x [rows, padded width]."""
    mean = tl.sum(x, axis=1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / width + epsilon)
    there = column < width
    gain = tl.load(weight + column, there, 0.0).to(tl.float32)
    shift = tl.load(bias + column, there, 0.0).to(tl.float32)
    return centred * scale[:, None] * gain[None, :] + shift[None, :]


@triton.jit
def _add_norm_kernel(
    x, branch, place_of, total, normed, weight_in, bias_in, weight_out, bias_out, count, width, epsilon_in, epsilon_out,
    has_inner: tl.constexpr, has_places: tl.constexpr, rows: tl.constexpr, padded: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.arange(0, padded)
    inside = (row < count)[:, None] & (column < width)[None, :]
    place = row[:, None] * width + column[None, :]
    source = row
    if has_places:
        source = tl.load(place_of + row, row < count, 0)
    y = tl.load(branch + source[:, None] * width + column[None, :], inside, 0.0).to(tl.float32)
    if has_inner:
        y = _norm_rows(y, inside, width, weight_in, bias_in, column, epsilon_in)
    y += tl.load(x + place, inside, 0.0).to(tl.float32)
    tl.store(total + place, y, inside)
    y = tl.where(inside, y, 0.0)
    y = _norm_rows(y, inside, width, weight_out, bias_out, column, epsilon_out)
    tl.store(normed + place, y.to(normed.dtype.element_ty), inside)


def add_norm(
    x: Tensor,
    branch: Tensor,
    inner: torch.nn.LayerNorm | None,
    outer: torch.nn.LayerNorm,
    dtype: torch.dtype,
    places: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``x + inner(branch[places])`` in float32 and its ``outer`` norm in ``dtype``, both [N, C], read and written once.

    Args:
        x: float32, contiguous [N, C].
        branch: any float, contiguous [M, C].
        places: row of the branch for each of x [N]; None takes them as they are.
    """
    count, width = x.shape
    total, normed = torch.empty_like(x), torch.empty_like(x, dtype=dtype)
    padded = triton.next_power_of_2(width)
    rows = max(1024 // padded, 1) * 2
    first = inner or outer
    _add_norm_kernel[(triton.cdiv(count, rows),)](
        x, branch.contiguous(), branch if places is None else places, total, normed, first.weight, first.bias,
        outer.weight, outer.bias, count, width, first.eps, outer.eps, inner is not None, places is not None,
        rows, padded,
    )  # fmt: skip
    return total, normed


@triton.jit
def _gelu(x):
    """Exact GELU to 2e-7, by Abramowitz and Stegun's 7.1.26 for the error function: half the work of ``tl.erf``."""
    z = tl.abs(x) * 0.7071067811865476
    t = 1.0 / (1.0 + 0.3275911 * z)
    series = (((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592
    return 0.5 * (x + tl.abs(x) * (1.0 - series * t * tl.exp2(-1.4426950408889634 * z * z)))


@triton.jit
def _hidden_kernel(
    own, weight, coarse, cell, gain, bias, out, count, width, has_coarse: tl.constexpr,
    inner: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64) * rows + tl.arange(0, rows)
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    k = tl.arange(0, inner)
    has_row, has_column = row < count, column < width
    inside = has_row[:, None] & has_column[None, :]
    a = tl.load(own + row[:, None] * inner + k[None, :], has_row[:, None], 0.0)
    b = tl.load(weight + column[None, :] * inner + k[:, None], has_column[None, :], 0.0)
    y = tl.dot(a, b) + tl.load(bias + column, has_column, 0.0)[None, :]
    if has_coarse:
        parent = tl.load(cell + row, has_row, 0)
        scale = tl.load(gain + row, has_row, 0.0)
        below = tl.load(coarse + parent[:, None] * width + column[None, :], inside, 0.0)
        y += scale[:, None] * below.to(tl.float32)
    tl.store(out + row[:, None] * width + column[None, :], _gelu(y).to(out.dtype.element_ty), inside)


def hidden_layer(
    own: Tensor, weight: Tensor, coarse: Tensor | None, cell: Tensor | None, gain: Tensor, bias: Tensor
) -> Tensor:
    """``gelu(own @ weight.T + gain * coarse[cell] + bias)`` [R, H], written once; see
    :class:`chorus_core.encoder.factored_head.FactoredHead`.

    Args:
        own: half precision [R, k], k a power of two from 16 on.
        weight: of the same kind [H, k].
        coarse: what the coarser levels add, [M, H], and the row of it for each of ours [R]; None for nothing.
        gain: float32 [R].
        bias: float32 [H].
    """
    out = own.new_empty((len(own), len(weight)))
    programs = (triton.cdiv(len(weight), _COLUMNS), triton.cdiv(len(own), _ROWS))
    _hidden_kernel[programs](
        own, weight, coarse if coarse is not None else own, cell if cell is not None else own, gain, bias, out,
        len(own), len(weight), coarse is not None, own.shape[1], _ROWS, _COLUMNS,
    )  # fmt: skip
    return out


@triton.jit
def _place_kernel(out, rows, features, chosen, length, width, has_length: tl.constexpr, lanes: tl.constexpr):
    number = tl.program_id(0).to(tl.int64)
    source, target = tl.load(chosen + number), tl.load(rows + number)
    scale = 1.0
    if has_length:
        scale = 1.0 / tl.maximum(tl.load(length + source), 1e-12)
    for start in range(0, width, lanes):
        column = start + tl.arange(0, lanes)
        value = tl.load(features + source * width + column, column < width, 0.0).to(tl.float32)
        tl.store(out + target * width + column, (value * scale).to(out.dtype.element_ty), column < width)


def place(out: Tensor, rows: Tensor, features: Tensor, chosen: Tensor, length: Tensor | None) -> None:
    """See :func:`chorus_core.encoder.placement.place`."""
    count, width = len(rows), features.shape[1]
    if not count:
        return
    lanes = min(triton.next_power_of_2(width), 1024)
    holder = features if length is None else length
    _place_kernel[(count,)](
        out, rows, features, chosen, holder, width, length is not None, lanes, num_warps=max(lanes // 256, 1)
    )


@triton.jit
def _neighbour_kernel(
    grid, codes, order, table, count, depth, extent_x, extent_y, extent_z, steps,
    has_order: tl.constexpr, lanes: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * lanes + tl.arange(0, lanes)
    cell = 14 + tl.program_id(1)  # the other half of the neighbours mirrors these
    here = place < count
    voxel = place
    if has_order:
        voxel = tl.load(order + place, here, 0)
    x = tl.load(grid + 3 * voxel, here, 0) + cell // 9 - 1
    y = tl.load(grid + 3 * voxel + 1, here, 0) + cell // 3 % 3 - 1
    z = tl.load(grid + 3 * voxel + 2, here, 0) + cell % 3 - 1
    here &= (x < extent_x) & (y >= 0) & (y < extent_y) & (z >= 0) & (z < extent_z)
    scene = tl.load(codes + place, here, 0) >> (3 * depth)
    wanted = scene << (3 * depth) | _spread(x) << 2 | _spread(y) << 1 | _spread(z)
    low = tl.zeros_like(place)
    high = low + count
    for _ in range(steps):
        middle = (low + high) >> 1
        below = tl.load(codes + middle, here & (middle < count), 0) < wanted
        searching = low < high
        low = tl.where(searching & below, middle + 1, low)
        high = tl.where(searching & (below == 0), middle, high)
    here &= low < count
    here &= tl.load(codes + low, here, -1) == wanted
    other = low
    if has_order:
        other = tl.load(order + low, here, 0)
    tl.store(table + cell * count + voxel, other.to(tl.int32), here)
    tl.store(table + (26 - cell) * count + other, voxel.to(tl.int32), here)


def neighbour_table(
    grid: Tensor, codes: Tensor, depth: int, order: Tensor | None, extent: tuple[int, int, int]
) -> Tensor:
    """For each cell of a 3 x 3 x 3 kernel the voxel there, seen from each voxel, or -1, int32 [27, N].

    Args:
        grid: int64 [N, 3].
        codes: of a :class:`~chorus_core.encoder.hierarchy.Level`, as are their depth, the order and the extent.
    """
    count = len(grid)
    table = torch.full((27, count), -1, dtype=torch.int32, device=grid.device)
    torch.arange(count, dtype=torch.int32, device=grid.device, out=table[13])
    programs = (triton.cdiv(count, _LANES // 4), 13)
    _neighbour_kernel[programs](
        grid, codes, codes if order is None else order, table, count, depth, *extent,
        count.bit_length() + 1, order is not None, _LANES // 4,
    )  # fmt: skip
    return table


@triton.jit
def _convolve_kernel(
    x, weight, bias, table, out, count, width_in, width_out,
    rows: tl.constexpr, columns: tl.constexpr, inner: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)  # the other axis ends at 65,535 programs
    column = tl.program_id(1) * columns + tl.arange(0, columns)
    has_row, has_column = row < count, column < width_out
    total = tl.zeros((rows, columns), tl.float32)
    for cell in range(27):
        source = tl.load(table + cell * count + row, has_row, -1).to(tl.int64)
        if tl.max(source, axis=0) >= 0:
            there = source >= 0
            for start in range(0, width_in, inner):
                k = start + tl.arange(0, inner)
                has_k = k < width_in
                a = tl.load(x + source[:, None] * width_in + k[None, :], there[:, None] & has_k[None, :], 0.0)
                a = a.to(weight.dtype.element_ty)
                place = (cell * width_in + k)[:, None] * width_out + column[None, :]
                b = tl.load(weight + place, has_k[:, None] & has_column[None, :], 0.0)
                total = tl.dot(a, b, total, input_precision="ieee")
    total += tl.load(bias + column, has_column, 0.0).to(tl.float32)[None, :]
    inside = has_row[:, None] & has_column[None, :]
    tl.store(out + row[:, None] * width_out + column[None, :], total.to(out.dtype.element_ty), inside)


def convolve(x: Tensor, cells: Tensor, bias: Tensor, table: Tensor) -> Tensor:
    """Submanifold convolution [N, out], in the precision of its weights.

    Args:
        x: of any precision [N, in].
        cells: weights of each cell of the kernel, contiguous [27, in, out].
        bias: [out].
        table: of :func:`neighbour_table`.
    """
    (count, width_in), width_out = x.shape, cells.shape[2]
    out = cells.new_empty((count, width_out))
    columns = min(max(triton.next_power_of_2(width_out), 16), 128 if width_out % 128 == 0 else 64)
    inner = min(max(triton.next_power_of_2(width_in), 16), 64)
    programs = (triton.cdiv(count, _VOXELS), triton.cdiv(width_out, columns))
    _convolve_kernel[programs](
        x.contiguous(), cells, bias, table, out, count, width_in, width_out, _VOXELS, columns, inner
    )
    return out
