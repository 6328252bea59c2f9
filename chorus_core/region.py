"""Which part of the map to encode next."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.config import EncoderConfig

_TILE = 4.0
"""Edge of the square columns that are encoded together once the map is too large for one pass, metres."""

_MARGIN = 0.25
"""Share of the halo around a change in which features are made anew."""

_WIDER = 0.4
"""Metres that the halo widens by while it holds too little."""

_AROUND = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)

_ROUNDING = 1e-3
"""Metres by which float32 may put a Gaussian outside its own block, many times over."""


@dataclass(frozen=True)
class Change:
    """What changed in a column: how many blocks, and the least box around them in plan, metres; blocks that stick out
    of the column do so with their box."""

    blocks: int
    low: tuple[float, float]
    high: tuple[float, float]

    def with_(self, other: Change | None) -> Change:
        """Both. Not the sum of blocks: one in view changes with every frame, and is no more worth for that."""
        if other is None:
            return self
        low = (min(self.low[0], other.low[0]), min(self.low[1], other.low[1]))
        high = (max(self.high[0], other.high[0]), max(self.high[1], other.high[1]))
        return Change(max(self.blocks, other.blocks), low, high)


@dataclass
class Region:
    """Gaussians to encode: those whose features are wanted, and their surroundings.

    Attributes:
        context: indices into the snapshot [M].
        owned: which of these are wanted, bool [M].
        changes: the columns it covers and what had changed there.
        box: lower and upper corner of what is owned in plan, metres [2, 2]; None where that is everything.
    """

    context: Tensor
    owned: Tensor
    changes: dict[tuple[int, int], Change]
    box: Tensor | None = None

    def near(self, means: Tensor, margin: float) -> Tensor:
        """Which of the context is owned or that close to it in plan, bool [M].

        Args:
            means: of the context, metres [M, 3].
            margin: metres.
        """
        if self.box is None:
            return self.owned
        plane = means[:, :2]
        return ((plane >= self.box[0] - margin) & (plane <= self.box[1] + margin)).all(dim=1)

    @property
    def owned_indices(self) -> Tensor:
        return self.context[self.owned]


class RegionScheduler:
    """Remembers which columns of the map changed, and hands out one after another.

    A map that fits one pass is encoded whole. Otherwise what changed of one column is, with a margin around it, where
    the change is felt most. The column with the most changes, weighted by the square of how long it has not been
    served, goes first: what a robot sees now comes often, what it passed once comes too, and a column that fails to
    encode does not hold up the others. Changed columns beside it come along where that reads less than each alone.
    """

    def __init__(self, config: EncoderConfig) -> None:
        self._config = config
        self._changes: dict[tuple[int, int], Change] = {}
        self._served: dict[tuple[int, int], int] = {}  # turn in which a column was last handed out
        self._turn = 0

    @property
    def pending(self) -> bool:
        """Whether anything changed that has not been handed out."""
        return bool(self._changes)

    def add(self, centers: Tensor, edge: float = 0.0) -> None:
        """Note blocks that changed.

        Args:
            centers: metres [B, 3].
            edge: of a block, metres.
        """
        plane = centers[:, :2].cpu()  # few: a GPU would be waited for many times
        column = torch.floor(plane / _TILE).long()
        keys, place = torch.unique((column[:, 0] << 32) + column[:, 1], return_inverse=True)
        boxes = plane.new_zeros((len(keys), 2))
        where = place[:, None].expand_as(plane)
        low = boxes.scatter_reduce(0, where, plane - edge / 2, "amin", include_self=False).tolist()
        high = boxes.scatter_reduce(0, where, plane + edge / 2, "amax", include_self=False).tolist()
        names = column.new_empty((len(keys), 2)).scatter_(0, where, column).tolist()
        counts = torch.bincount(place, minlength=len(keys)).tolist()
        for name, count, least, most in zip(names, counts, low, high, strict=True):
            change = Change(count, tuple(least), tuple(most))
            self._changes[tuple(name)] = change.with_(self._changes.get(tuple(name)))

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
            changes = self._grown(max(self._changes, key=self._urgency), means)
            region = self._region(changes, means)
            for column in changes:
                del self._changes[column]
                self._served[column] = self._turn
            if bool(region.owned.any()):
                return region
        return None

    def put_back(self, region: Region) -> None:
        """Remember a region whose encoding failed, so that it is tried again."""
        for column, change in region.changes.items():
            self._changes[column] = change.with_(self._changes.get(column))

    def _urgency(self, column: tuple[int, int]) -> int:
        return self._changes[column].blocks * (self._turn - self._served.get(column, 0)) ** 2

    def _grown(self, column: tuple[int, int], means: Tensor) -> dict[tuple[int, int], Change]:
        """A column with those changed ones beside it that take less room together than apart, and fit one pass."""
        changes = {column: self._changes[column]}
        for dx, dy in _AROUND:
            other = (column[0] + dx, column[1] + dy)
            if other not in self._changes:
                continue
            alone = {other: self._changes[other]}
            joined = changes | alone
            if self._area(joined) > self._area(changes) + self._area(alone):
                continue
            if int(self._inside(joined, means, self._config.halo).sum()) <= self._config.max_gaussians:
                changes = joined
        return changes

    def _area(self, changes: dict[tuple[int, int], Change]) -> float:
        """What is read for changes encoded together, square metres."""
        (left, front), (right, back) = _box(changes)
        around = 2 * (self._margin + self._config.halo)
        return (right - left + around) * (back - front + around)

    def _region(self, changes: dict[tuple[int, int], Change], means: Tensor) -> Region:
        # A small piece of floor alone is no floor to an encoder that was trained on rooms.
        halo = self._config.halo
        inside = self._inside(changes, means, halo)
        while int(inside.sum()) < self._config.min_context and halo < _TILE:
            halo += _WIDER
            inside = self._inside(changes, means, halo)
        context = inside.nonzero().squeeze(1)
        owned = self._inside(changes, means[context], 0.0)
        low, high = means.new_tensor(_box(changes))
        return Region(context, owned, changes, torch.stack((low - self._margin, high + self._margin)))

    @property
    def _margin(self) -> float:
        """Metres around changes in which features are made anew."""
        return _MARGIN * self._config.halo + _ROUNDING

    def _inside(self, changes: dict[tuple[int, int], Change], means: Tensor, halo: float) -> Tensor:
        """Which Gaussians are encoded for some changes, or lie so many metres around, bool [N]."""
        low, high = means.new_tensor(_box(changes))
        plane, around = means[:, :2], self._margin + halo
        return ((plane >= low - around) & (plane <= high + around)).all(dim=1)


def _box(changes: dict[tuple[int, int], Change]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower and upper corner of all changes."""
    low = tuple(min(values) for values in zip(*(change.low for change in changes.values()), strict=True))
    high = tuple(max(values) for values in zip(*(change.high for change in changes.values()), strict=True))
    return low, high
