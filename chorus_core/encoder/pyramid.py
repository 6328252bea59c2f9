"""What an encoder pass leaves: the features of every stage on its own voxels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def part_size(count: int, most: int) -> int:
    """Size of equal parts of ``count`` things, of which each has at most ``most``; 1 for none."""
    return max(-(-count // max(-(-count // most), 1)), 1)


@dataclass
class Rows:
    """Some of the finest voxels, and the part of every coarser stage that they lie in.

    Attributes:
        voxels: ascending [R]. Where the finest voxels follow Morton's curve, so do the cells they join.
        spans: for each stage from 1 on the first cell and the one behind the last; numbers of the host.
    """

    voxels: Tensor
    spans: list[tuple[int, int]]


@dataclass
class Pyramid:
    """Features of every stage, finest first.

    Attributes:
        features: [N_s, C_s] of each stage.
        cells: for each stage but the first, the voxel there that each voxel of the finer stage joins [N_(s-1)].
    """

    features: list[Tensor]
    cells: list[Tensor]

    def __len__(self) -> int:
        return self.features[0].shape[0]

    def upcast(self, voxels: Tensor | None = None) -> Tensor:
        """Features of all stages side by side at the finest voxels [N, sum C_s], or at some of them [R, sum C_s]."""
        if voxels is not None:
            return torch.cat(list(self.carried(self.features, voxels)), dim=1)
        upcast = self.features[-1]
        for features, cell in zip(reversed(self.features[:-1]), reversed(self.cells), strict=True):
            upcast = torch.cat((features, upcast.index_select(0, cell)), dim=1)
        return upcast

    def carried(self, values: Sequence[Tensor], voxels: Tensor) -> Iterator[Tensor]:
        """Values of every stage [N_s, ...] at some of the finest voxels [R, ...], stage by stage."""
        at = voxels
        for stage, value in enumerate(values):
            at = self.cells[stage - 1].index_select(0, at) if stage else at
            yield value.index_select(0, at)

    def cut(self, voxels: Tensor, size: int) -> list[Rows]:
        """Some of the finest voxels, ascending [R], in equal parts of at most ``size``. The finest voxels must
        follow Morton's curve. The host waits once."""
        parts = list(voxels.split(part_size(len(voxels), size))) if len(voxels) else []
        if not parts or not self.cells:
            return [Rows(part, []) for part in parts]
        ends = torch.stack([torch.stack((part[0], part[-1])) for part in parts]).flatten()  # [2P]
        found = []
        for cell in self.cells:
            ends = cell[ends]
            found.append(ends)
        bounds = torch.stack(found).view(len(found), -1, 2).tolist()  # [stages, P, 2]
        return [Rows(part, [(int(b[p][0]), int(b[p][1]) + 1) for b in bounds]) for p, part in enumerate(parts)]
