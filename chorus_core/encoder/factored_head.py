"""A projector that reads the stages of an encoder pass where they are, instead of upcast features.

Most of what a projector reads is the same for all voxels of a coarse cell: of the release's 1232 channels, 48 belong to
the voxel itself. Its first layer is linear once the norm before it is written out, so each stage's share is computed on
that stage's own voxels, handed down, and added. For a surface, whose stages have a quarter of the voxels of the one
before, that is a twelfth of the products, and no [N, 1232] is ever made.

With x = (x_0, ..., x_S) the features of a voxel's stages, m_s and m the means over a stage's and all channels, r the
inverse deviation, W and b the first layer's, g and c the norm's gain and shift::

    W (g r (x - m) + c) + b = r [ sum_s W_s g_s (x_s - m_s) + sum_s (m_s - m) (W_s g_s 1) ] + (W c + b)

The bracket's first sum is handed down; the second and stage 0's share are one product at the finest voxels. Each stage
is centred by its own mean before it is rounded, so half precision loses nothing that the norm would have kept. The
variance is put together from those of the stages (Chan et al. 1983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from chorus_core.encoder.acceleration import use_kernels
from chorus_core.encoder.pyramid import Pyramid, Rows


class CentredPyramid:
    """The features of a pass as heads read them: each stage about its own mean, in the precision of the products.

    Args:
        pyramid: of the pass.
        dtype: of the products.
        epsilon: of the norm of the heads.
    """

    def __init__(self, pyramid: Pyramid, dtype: torch.dtype, epsilon: float) -> None:
        self.pyramid, self._dtype, self._epsilon = pyramid, dtype, epsilon
        moments = [torch.var_mean(features, dim=1, correction=0) for features in pyramid.features]
        self._moments = [torch.stack(pair, dim=1) for pair in moments]  # [N_s, 2]: variance, mean
        pairs = zip(pyramid.features, moments, strict=True)
        self._features = [(features - mean[:, None]).to(dtype) for features, (_, mean) in pairs]
        widths = [features.shape[1] for features in pyramid.features]
        self._share = pyramid.features[0].new_tensor(widths) / sum(widths)  # [S]

    def part(self, rows: Rows, width: int) -> Part:
        """What heads read for some voxels.

        Args:
            width: columns that :attr:`Part.own` is padded to.
        """
        gain, apart = self._norm(rows.voxels)
        columns = (self._features[0].index_select(0, rows.voxels), apart.to(self._dtype))
        blank = width - sum(column.shape[1] for column in columns)
        own = nn.functional.pad(torch.cat(columns, dim=1) * gain.to(self._dtype)[:, None], (0, blank))
        coarse = [self._features[s + 1][first:end] for s, (first, end) in enumerate(rows.spans)]
        cells = []
        for stage, (first, _) in enumerate(rows.spans):
            cell = self.pyramid.cells[stage]
            if stage:
                start, end = rows.spans[stage - 1]
                cells.append(cell[start:end] - first)
            else:
                cells.append(cell.index_select(0, rows.voxels) - first)
        return Part(own, gain, coarse, cells)

    def _norm(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse deviation over all channels [R], and the mean of each stage less the mean of all [R, S]."""
        table = torch.stack(list(self.pyramid.carried(self._moments, voxels)), dim=1)  # [R, S, 2]
        variances, means = table.unbind(2)
        apart = means - (means @ self._share)[:, None]
        return torch.rsqrt((variances + apart.square()) @ self._share + self._epsilon), apart


@dataclass
class Part:
    """Some voxels as heads read them.

    Attributes:
        own: inverse deviation times [centred channels of stage 0, apart, zeros] [R, k].
        gain: inverse deviation over all channels [R].
        coarse: centred features of the cells of each stage from 1 on [M_s, C_s].
        cells: row of those that each voxel [R] joins, then each cell of the finer stage [M_(s-1)].
    """

    own: Tensor
    gain: Tensor
    coarse: list[Tensor]
    cells: list[Tensor]


class FactoredHead(nn.Module):
    """A projector's weights, rearranged; see the module. For inference only.

    Args:
        projector: norm, linear, GELU and linear; see :class:`chorus_core.encoder.model.Projector`.
        widths: channels of the stages, finest first; they add up to what the projector reads.
        dtype: of the products.

    Attributes:
        epsilon: of its norm.
        inner: columns of :attr:`Part.own` that it reads.
    """

    def __init__(self, projector: nn.Module, widths: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        norm, (first, _, last) = projector.input_norm, projector.mlp_head
        self.epsilon: float = norm.eps
        gained = (first.weight.detach() * norm.weight.detach()).split(list(widths), dim=1)
        sums = torch.stack([part.sum(dim=1) for part in gained], dim=1)  # [H, S]
        own = torch.cat((gained[0], sums), dim=1)
        self.inner = own.shape[1]
        if dtype.itemsize == 2:
            self.inner = max(16, 1 << (own.shape[1] - 1).bit_length())  # a power of two, as matrix units take it
        self.register_buffer("own", nn.functional.pad(own, (0, self.inner - own.shape[1])).to(dtype))
        self.register_buffer("bias", (first.weight @ norm.bias + first.bias).detach().clone())
        self.coarse = nn.ParameterList([nn.Parameter(w.to(dtype).clone(), requires_grad=False) for w in gained[1:]])
        self.register_buffer("last_weight", last.weight.detach().to(dtype, copy=True))
        self.register_buffer("last_bias", last.bias.detach().to(dtype, copy=True))

    def forward(self, part: Part) -> Tensor:
        """The teacher's features of some voxels [R, d_t], not normalised."""
        coarse = self._handed_down(part)
        cell = part.cells[0] if part.cells else None
        hidden = hidden_layer(part.own, self.own, coarse, cell, part.gain, self.bias)
        return linear(hidden, self.last_weight, self.last_bias)

    def _handed_down(self, part: Part) -> Tensor | None:
        """The coarser stages' share of the first layer at the cells of stage 1 [M_1, H]."""
        share: Tensor | None = None
        for stage in reversed(range(len(part.coarse))):
            features, weight = part.coarse[stage], self.coarse[stage]
            if share is None:
                share = features @ weight.T
            else:
                share = share.index_select(0, part.cells[stage + 1]).addmm_(features, weight.T)
        return share


def hidden_layer(
    own: Tensor, weight: Tensor, coarse: Tensor | None, cell: Tensor | None, gain: Tensor, bias: Tensor
) -> Tensor:
    """``gelu(own @ weight.T + gain * coarse[cell] + bias)`` [R, H].

    Args:
        own: [R, k].
        weight: [H, k].
        coarse: what the coarser stages add, [M, H], and its row for each of ours, [R]; None for nothing.
        gain: [R].
        bias: [H].
    """
    if use_kernels(own) and own.dtype in (torch.bfloat16, torch.float16):
        from chorus_core.encoder import kernels

        return kernels.hidden_layer(own, weight, coarse, cell, gain, bias)
    y = linear(own.to(bias.dtype), weight.to(bias.dtype), bias)
    if coarse is not None and cell is not None:
        y.addcmul_(coarse.index_select(0, cell).to(bias.dtype), gain[:, None])
    return gelu(y).to(own.dtype)
