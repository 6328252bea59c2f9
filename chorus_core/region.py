"""Which part of the map to encode next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.config import EncoderConfig

_TILE = 4.0
"""Edge of the square columns that are encoded together once the map is too large for one pass, metres."""


@dataclass
class Region:
    """Gaussians to encode: those whose features are wanted, and their surroundings.

    Attributes:
        context: indices into the snapshot [M].
        owned: which of these are wanted, bool [M].
        changes: the columns it covers and how much they had changed.
    """

    context: Tensor
    owned: Tensor
    changes: dict[tuple[int, int], int]

    @property
    def owned_indices(self) -> Tensor:
        return self.context[self.owned]


class RegionScheduler:
    """Remembers which columns of the map changed, and hands out the one that changed most.

    A map that fits one pass is encoded whole.
    """

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._changes: dict[tuple[int, int], int] = {}

    def next_region(self, dirty_centers: Tensor, means: Tensor) -> Region | None:
        """The next region, or None where nothing changed.

        Args:
            dirty_centers: of the blocks that changed since the last call, metres [B, 3].
            means: of the whole snapshot, metres [N, 3].
        """
        columns, counts = torch.unique(torch.floor(dirty_centers[:, :2] / _TILE).long(), dim=0, return_counts=True)
        for (x, y), count in zip(columns.tolist(), counts.tolist(), strict=True):
            self._changes[x, y] = self._changes.get((x, y), 0) + count
        if not self._changes or means.shape[0] == 0:
            return None
        if means.shape[0] <= self._config.max_gaussians:
            changes, self._changes = self._changes, {}
            everything = torch.arange(means.shape[0], device=means.device)
            return Region(everything, torch.ones_like(everything, dtype=torch.bool), changes)
        column = max(self._changes, key=lambda c: self._changes[c])
        changes = {column: self._changes.pop(column)}
        low = means.new_tensor(column) * _TILE
        plane = means[:, :2]
        halo = self._config.halo
        context = ((plane >= low - halo) & (plane < low + _TILE + halo)).all(dim=1).nonzero().squeeze(1)
        owned = ((plane[context] >= low) & (plane[context] < low + _TILE)).all(dim=1)
        if not bool(owned.any()):
            return self.next_region(dirty_centers[:0], means)
        return Region(context, owned, changes)

    def put_back(self, region: Region) -> None:
        """Remember a region whose encoding failed, so that it is tried again."""
        for column, count in region.changes.items():
            self._changes[column] = self._changes.get(column, 0) + count
