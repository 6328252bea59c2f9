"""Which part of the map to encode next."""

from __future__ import annotations

from collections.abc import Callable
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

    def merged(self, other: Change | None) -> Change:
        """Union. Keep the larger block count: a block in view changes in every frame and would count each time."""
        if other is None:
            return self
        low = (min(self.low[0], other.low[0]), min(self.low[1], other.low[1]))
        high = (max(self.high[0], other.high[0]), max(self.high[1], other.high[1]))
        return Change(max(self.blocks, other.blocks), low, high)


@dataclass(frozen=True)
class Region:
    """What to encode: a rectangle in plan whose features are wanted, and what is read around it.

    Attributes:
        changes: the columns it covers and what had changed there.
        owned: lower and upper corner of what features are wanted of, metres float32 [2, 2]; None for the whole map.
        read: the same of what the encoder reads; None for the whole map.
    """

    changes: dict[tuple[int, int], Change]
    owned: Tensor | None = None
    read: Tensor | None = None

    def owns(self, means: Tensor, margin: float = 0.0) -> Tensor:
        """Which points [M, 3] lie in what is wanted, or so many metres around it in plan, bool [M]."""
        return _within(self.owned, means, margin)

    def reads(self, means: Tensor) -> Tensor:
        """Which points [M, 3] lie in what is read, bool [M]."""
        return _within(self.read, means, 0.0)


def _within(box: Tensor | None, means: Tensor, margin: float) -> Tensor:
    if box is None:
        return torch.ones(len(means), dtype=torch.bool, device=means.device)
    low, high = box.to(means.device)
    plane = means[:, :2]
    return ((plane >= low - margin) & (plane <= high + margin)).all(dim=1)


Count = Callable[[Tensor], int]
"""How many Gaussians lie within two corners in plan, metres [2, 2]; a few more beside it may be counted, too."""


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
            self._changes[tuple(name)] = change.merged(self._changes.get(tuple(name)))

    def next(self, total: int, count: Count) -> Region | None:
        """The next region of the map, or None where nothing changed.

        Args:
            total: Gaussians in the map, one a voxel of the encoder.
            count: how many are in a rectangle in plan.
        """
        if not self._changes or total == 0:
            return None
        if total <= self._config.max_gaussians:
            region = Region(self._changes)
            self._changes = {}
            return region
        self._turn += 1
        changes = self._grown(max(self._changes, key=self._urgency), count)
        region = self._region(changes, count)
        for column in changes:
            del self._changes[column]
            self._served[column] = self._turn
        return region

    def put_back(self, region: Region) -> None:
        """Remember a region whose encoding failed, so that it is tried again."""
        for column, change in region.changes.items():
            self._changes[column] = change.merged(self._changes.get(column))

    def _urgency(self, column: tuple[int, int]) -> int:
        return self._changes[column].blocks * (self._turn - self._served.get(column, 0)) ** 2

    def _grown(self, column: tuple[int, int], count: Count) -> dict[tuple[int, int], Change]:
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
            if count(self._around(joined, self._config.halo)) <= self._config.max_gaussians:
                changes = joined
        return changes

    def _area(self, changes: dict[tuple[int, int], Change]) -> float:
        """What is read for changes encoded together, square metres."""
        (left, front), (right, back) = _box(changes)
        around = 2 * (self._margin + self._config.halo)
        return (right - left + around) * (back - front + around)

    def _region(self, changes: dict[tuple[int, int], Change], count: Count) -> Region:
        # A small piece of floor alone is no floor to an encoder that was trained on rooms.
        halo = self._config.halo
        while count(self._around(changes, halo)) < self._config.min_context and halo < _TILE:
            halo += _WIDER
        return Region(changes, self._around(changes, 0.0), self._around(changes, halo))

    @property
    def _margin(self) -> float:
        """Metres around changes in which features are made anew."""
        return _MARGIN * self._config.halo + _ROUNDING

    def _around(self, changes: dict[tuple[int, int], Change], halo: float) -> Tensor:
        """Corners of what is encoded for some changes, and so many metres around it [2, 2]."""
        low, high = torch.tensor(_box(changes))
        around = self._margin + halo
        return torch.stack((low - around, high + around))


def _box(changes: dict[tuple[int, int], Change]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower and upper corner of all changes."""
    low = tuple(min(values) for values in zip(*(change.low for change in changes.values()), strict=True))
    high = tuple(max(values) for values in zip(*(change.high for change in changes.values()), strict=True))
    return low, high
