"""What changed in the map since a reader last looked; each reader keeps a cursor of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

_REMEMBERED = 1 << 20
"""Removed blocks that are remembered at least; a reader further behind reads the whole map anew."""


@dataclass(frozen=True)
class Cursor:
    """How far a reader has read: a map, and a revision of it. The default is of no map: everything is news to it."""

    map_id: str = ""
    revision: int = 0


@dataclass(frozen=True)
class Changes:
    """What a reader with an older cursor does not know yet.

    Attributes:
        blocks: ids of the blocks that changed and hold Gaussians, int64 [B].
        removed: packed keys of the blocks that hold none any more, by carving or eviction, int64 [R]; also of some
            that the reader never knew.
        restarted: the reader is to forget all it knows (it read another map, or too long ago); ``blocks`` are all.
        cursor: to ask with next time.
    """

    blocks: Tensor
    removed: Tensor
    restarted: bool
    cursor: Cursor

    def __bool__(self) -> bool:
        """Whether there is any news."""
        return self.restarted or self.blocks.numel() > 0 or self.removed.numel() > 0


class Tombstones:
    """Keys of removed blocks, with the revision that removed them; the oldest are forgotten beyond a million."""

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._removals: deque[tuple[int, Tensor]] = deque()
        self._count = 0
        self.complete_since = 0
        """Removals after this revision are all remembered."""

    def add(self, revision: int, keys: Tensor) -> None:
        """Remember that a revision removed the blocks of some keys, int64 [R]."""
        if not keys.numel():
            return
        self._removals.append((revision, keys))
        self._count += keys.numel()
        while self._count - self._removals[0][1].numel() >= self._limit:
            self.complete_since, oldest = self._removals.popleft()
            self._count -= oldest.numel()

    def since(self, revision: int, device: torch.device) -> Tensor:
        """Keys that were removed after a revision, int64 [R]; twice where a block came back and went again."""
        parts = [keys for removed_at, keys in self._removals if removed_at > revision]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=device)
