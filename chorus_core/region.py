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
    """Remembers which columns of the map changed, and hands out one after another.

    A map that fits one pass is encoded whole. Otherwise the column with the most changes, weighted by the square of
    how long it has not been served, goes first: what a robot sees now comes often, what it passed once comes too, and
    a column that fails to encode does not hold up the others.
    """

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._changes: dict[tuple[int, int], int] = {}
        self._served: dict[tuple[int, int], int] = {}  # turn in which a column was last handed out
        self._turn = 0

    @property
    def pending(self) -> bool:
        """Whether anything changed that has not been handed out."""
        return bool(self._changes)

    def add(self, centers: Tensor) -> None:
        """Note blocks that changed, by their centres in metres [B, 3]."""
        columns, counts = torch.unique(torch.floor(centers[:, :2] / _TILE).long(), dim=0, return_counts=True)
        for (x, y), count in zip(columns.tolist(), counts.tolist(), strict=True):
            # Not the sum: a block in view changes with every frame, and is no more worth for that.
            self._changes[x, y] = max(self._changes.get((x, y), 0), count)

    def next(self, means: Tensor) -> Region | None:
        """The next region of a snapshot, or None where nothing changed that is still there.

        Args:
            means: of the whole snapshot, metres [N, 3].
        """
        if not self._changes or means.shape[0] == 0:
            return None
        if means.shape[0] <= self._config.max_gaussians:
            everything = torch.arange(means.shape[0], device=means.device)
            region = Region(everything, torch.ones_like(everything, dtype=torch.bool), self._changes)
            self._changes = {}
            return region
        self._turn += 1
        while self._changes:
            column = max(self._changes, key=self._urgency)
            region = self._column(column, self._changes[column], means)
            del self._changes[column]
            self._served[column] = self._turn
            if bool(region.owned.any()):
                return region
        return None

    def put_back(self, region: Region) -> None:
        """Remember a region whose encoding failed, so that it is tried again."""
        for column, count in region.changes.items():
            self._changes[column] = max(self._changes.get(column, 0), count)

    def _urgency(self, column: tuple[int, int]) -> int:
        return self._changes[column] * (self._turn - self._served.get(column, 0)) ** 2

    def _column(self, column: tuple[int, int], count: int, means: Tensor) -> Region:
        low = means.new_tensor(column) * _TILE
        plane, halo = means[:, :2], self._config.halo
        context = ((plane >= low - halo) & (plane < low + _TILE + halo)).all(dim=1).nonzero().squeeze(1)
        owned = ((plane[context] >= low) & (plane[context] < low + _TILE)).all(dim=1)
        return Region(context, owned, {column: count})
