"""Which rows of an output each voxel of a pass fills."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from chorus_core.encoder.acceleration import use_kernels
from chorus_core.encoder.pyramid import Pyramid, Rows, part_size


class PlacedRows(NamedTuple):
    """Some voxels and where their features go.

    Attributes:
        voxels: R of them.
        rows: of the output that they fill [Q].
        chosen: which of the voxels fills each [Q].
    """

    voxels: Rows
    rows: Tensor
    chosen: Tensor


class Placement:
    """Voxels that are asked for, and the points that take their features.

    Args:
        voxel_of_point: voxel of each point that is asked for [P].
        rows: row of the output for each of these points [P].
    """

    def __init__(self, voxel_of_point: Tensor, rows: Tensor) -> None:
        voxels, order = torch.sort(voxel_of_point)
        self._rows = rows[order]
        begins = torch.ones_like(voxels, dtype=torch.bool)
        begins[1:] = voxels[1:] != voxels[:-1]
        self.voxels = voxels[begins]  # [U], ascending
        self._place = begins.cumsum(0) - 1  # of each point among these [P]

    def parts(self, pyramid: Pyramid, size: int) -> list[PlacedRows]:
        """Voxels in equal parts of at most ``size``. The host waits twice."""
        cut, size = pyramid.cut(self.voxels, size), part_size(len(self.voxels), size)
        starts = torch.arange(len(cut) + 1, device=self._place.device) * size
        ends = torch.searchsorted(self._place, starts).tolist()
        return [
            PlacedRows(part, self._rows[first:end], self._place[first:end] - number * size)
            for number, (part, first, end) in enumerate(zip(cut, ends[:-1], ends[1:], strict=True))
        ]


def place(out: Tensor, rows: Tensor, features: Tensor, chosen: Tensor, length: Tensor | None) -> None:
    """``out[rows] = features[chosen] / length[chosen]``.

    Args:
        out: float16 [N, d].
        rows: distinct [Q].
        features: [R, d].
        chosen: [Q].
        length: > 0, shorter ones count as 1e-12 [R]; None divides by nothing.
    """
    if use_kernels(features):
        from chorus_core.encoder import kernels

        kernels.place(out, rows, features.contiguous(), chosen, length)
        return
    taken = features.index_select(0, chosen)
    if length is not None:
        taken = taken / length.clamp(min=1e-12)[chosen, None]
    out[rows] = taken.to(out.dtype)
