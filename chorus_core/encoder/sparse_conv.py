"""Submanifold 3 x 3 x 3 convolution on the voxels of a level.

On a GPU, spconv where gradients are wanted and a kernel of our own where not: that one knows bfloat16, and a call costs
a tenth of spconv's on the host. Anywhere else a plain torch twin, which is faster on a CPU than spconv's native
kernels, and which the tests hold both to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chorus_core.encoder.acceleration import use_kernels
from chorus_core.encoder.hierarchy import Level
from chorus_core.extras import available

_OFFSETS = [(dx, dy, dz) for dx in (-1, 0, 1) for dy in (-1, 0, 1) for dz in (-1, 0, 1)]
_CENTRE = 13
_SMALL = 1 << 16
"""Voxels below which a GPU waits for launches."""


class SubMConv3d(nn.Module):
    """Submanifold convolution (Graham et al. 2018), kernel 3: outputs live on the input's voxels.

    Cross-correlation: kernel cell (i, j, k) reads the neighbour at grid offset (i-1, j-1, k-1).

    Attributes:
        weight: [out, 3, 3, 3, in], the layout of the release.
        bias: [out].
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.uniform_(self.weight, -1, 1)
        with torch.no_grad():  # about ten of 27 neighbours are occupied on a surface
            self.weight.mul_(1.0 / math.sqrt(10 * in_channels))

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Features [N, out] of features [N, in] on a level's voxels."""
        if x.is_cuda and available("spconv", "convolutions of training run in plain torch, slower"):
            return _convolve_spconv(x, self.weight, level) + self.bias
        return convolve_torch(x, cells_of(self.weight), level) + self.bias


class PackedConv3d(nn.Module):
    """A convolution laid out for inference: a matrix for each cell of the kernel, and any precision.

    Args:
        weight: [out, 3, 3, 3, in].
        bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("cells", cells_of(weight).contiguous())
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Features [N, out] of features [N, in] on a level's voxels, in the precision of the weights."""
        if use_kernels(x):
            from chorus_core.encoder import kernels

            # A voxel is read by a dozen others: convert it first, unless the launch takes longer than that.
            x = x.to(self.cells.dtype) if len(x) > _SMALL else x
            if "table" not in level.conv_cache:
                level.conv_cache["table"] = kernels.neighbour_table(
                    level.grid, level.codes, level.code_depth, level.order, level.extent
                )
            return kernels.convolve(x, self.cells, self.bias, level.conv_cache["table"])
        return convolve_torch(x.to(self.cells.dtype), self.cells, level).add_(self.bias)


def cells_of(weight: Tensor) -> Tensor:
    """Weights [out, 3, 3, 3, in] as a matrix for each of the 27 cells of the kernel [27, in, out]."""
    return weight.flatten(1, 3).permute(1, 2, 0)


def convolve_torch(x: Tensor, cells: Tensor, level: Level) -> Tensor:
    """The convolution without bias [N, out], of the weights of each cell of the kernel [27, in, out]."""
    kernel = cells.to(x.dtype)
    out = x @ kernel[_CENTRE]
    for cell, (target, source) in _pairs_of(level).items():
        out.index_add_(0, target, x.index_select(0, source) @ kernel[cell])
    return out


def _pairs_of(level: Level) -> dict[int, tuple[Tensor, Tensor]]:
    """The neighbour pairs of a level, found once."""
    if "pairs" not in level.conv_cache:
        level.conv_cache["pairs"] = neighbour_pairs(level.grid, level.batch, level.extent)
    return level.conv_cache["pairs"]  # type: ignore[return-value]


def neighbour_pairs(grid: Tensor, batch: Tensor, extent: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """For each kernel cell but the centre: voxels that have that neighbour, and the neighbour.

    Args:
        grid: non-negative integer coordinates [N, 3].
        batch: scene of each voxel [N].
        extent: cells along each axis that hold all voxels.
    """
    bits = (max(extent) + 2).bit_length()  # a margin of one on both sides: no offset wraps into another axis
    key = (((batch << bits | grid[:, 0] + 1) << bits) | grid[:, 1] + 1) << bits | grid[:, 2] + 1
    ordered, permutation = torch.sort(key)
    pairs = {}
    for cell in range(_CENTRE + 1, 27):  # the other half mirrors this one
        dx, dy, dz = _OFFSETS[cell]
        wanted = ordered + (((dx << bits) + dy) << bits) + dz
        position = torch.searchsorted(ordered, wanted).clamp(max=ordered.numel() - 1)
        hit = (ordered[position] == wanted).nonzero().squeeze(1)
        here, there = permutation[hit], permutation[position[hit]]
        pairs[cell] = (here, there)
        pairs[26 - cell] = (there, here)
    return pairs


def _convolve_spconv(x: Tensor, weight: Tensor, level: Level) -> Tensor:
    """The same on a GPU through spconv's implicit GEMM, whose indices are found once a level."""
    import spconv.pytorch as spconv
    from spconv.core import ConvAlgo
    from spconv.pytorch import functional

    with torch.autocast("cuda", enabled=False):
        # spconv knows no bfloat16. Half precision is enough to infer with; training keeps float32's range.
        needs_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
        dtype = torch.float16 if x.dtype in (torch.float16, torch.bfloat16) and not needs_grad else torch.float32
        if "spconv" not in level.conv_cache:
            indices = torch.cat((level.batch[:, None], level.grid), dim=1).int().contiguous()
            shape = list(level.extent)
            holder = spconv.SparseConvTensor(x.new_empty((0, 1)), indices, shape, level.scenes)
            level.conv_cache["spconv"] = spconv.ops.get_indice_pairs_implicit_gemm(
                indices, holder.batch_size, shape, ConvAlgo.MaskImplicitGemm, ksize=[3] * 3, stride=[1] * 3,
                padding=[1] * 3, dilation=[1] * 3, out_padding=[0] * 3, subm=True, transpose=False, is_train=True,
            )  # fmt: skip
        pairs = level.conv_cache["spconv"]
        (_, _, pair_fwd, pair_bwd, pair_mask_fwd, pair_mask_bwd, argsort_fwd, argsort_bwd, masks) = pairs
        return functional.implicit_gemm(
            x.to(dtype), weight.to(dtype), pair_fwd, pair_bwd, pair_mask_fwd, pair_mask_bwd, argsort_fwd, argsort_bwd,
            x.shape[0], masks, needs_grad, True,
        ).to(x.dtype)  # fmt: skip
