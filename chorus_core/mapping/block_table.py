"""A hash table from integer block coordinates to block ids, with a bounded probe, in plain tensor operations.

A lookup inspects a fixed number of neighbouring cells for every key at once: no loop depends on the data, so it costs
the same on a small and a large map and needs no synchronisation on a GPU. An insertion that cannot be placed within
that bound doubles the table. Since a lookup never stops early at an empty cell, removal needs no tombstones.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PROBES = 8
_EMPTY = -1
_AXIS_BITS = 21
_AXIS_HALF = 1 << (_AXIS_BITS - 1)


def pack(coords: Tensor) -> Tensor:
    """Integer coordinates in [-2^20, 2^20) as one key [P] of int64 [P, 3]."""
    shifted = coords + _AXIS_HALF
    return (shifted[:, 0] << (2 * _AXIS_BITS)) | (shifted[:, 1] << _AXIS_BITS) | shifted[:, 2]


def unpack(keys: Tensor) -> Tensor:
    """Inverse of :func:`pack`: int64 [P, 3]."""
    mask = (1 << _AXIS_BITS) - 1
    return torch.stack((keys >> (2 * _AXIS_BITS), (keys >> _AXIS_BITS) & mask, keys & mask), dim=1) - _AXIS_HALF


def _mix(keys: Tensor) -> Tensor:
    """Scrambled non-negative hash of keys (a multiply-xorshift finaliser in wrapping int64 arithmetic)."""
    h = keys * -7046029254386353131
    h = h ^ (h >> 29)
    h = h * -4658895280553007687
    return (h ^ (h >> 32)) & 0x7FFFFFFFFFFFFFFF


class BlockTable:
    """Map packed keys to small non-negative ids.

    Args:
        capacity: cells; a power of two. Grows by itself.
    """

    def __init__(self, device: torch.device, capacity: int = 1 << 16) -> None:
        self._keys = torch.full((capacity,), _EMPTY, dtype=torch.int64, device=device)
        self._ids = torch.full((capacity,), _EMPTY, dtype=torch.int64, device=device)

    def find(self, keys: Tensor) -> Tensor:
        """Ids of keys, -1 where absent, int64 [P] of int64 [P]."""
        cells = self._window(keys)  # [P, probes]
        return torch.where(self._keys[cells] == keys[:, None], self._ids[cells], _EMPTY).amax(dim=1)

    def insert(self, keys: Tensor, ids: Tensor) -> None:
        """Add keys that are unique and absent, int64 [P] both."""
        pending, pending_ids = keys, ids
        mask = self._keys.shape[0] - 1
        for probe in range(_PROBES):
            cell = (_mix(pending) + probe) & mask
            free = self._keys[cell] == _EMPTY
            # Two keys may aim at one free cell: one of the writes stays, the other key tries the next cell.
            self._keys[cell[free]] = pending[free]
            placed = free & (self._keys[cell] == pending)
            self._ids[cell[placed]] = pending_ids[placed]
            pending, pending_ids = pending[~placed], pending_ids[~placed]
            if pending.numel() == 0:
                return
        self._grow()
        self.insert(pending, pending_ids)

    def remove(self, keys: Tensor) -> None:
        """Forget keys; absent ones are ignored."""
        cells = self._window(keys)
        self._keys[cells[self._keys[cells] == keys[:, None]]] = _EMPTY

    def _window(self, keys: Tensor) -> Tensor:
        """All cells in which a key may be, int64 [P, probes]."""
        probes = torch.arange(_PROBES, device=keys.device)
        return (_mix(keys)[:, None] + probes) & (self._keys.shape[0] - 1)

    def _grow(self) -> None:
        kept = self._keys != _EMPTY
        keys, ids = self._keys[kept], self._ids[kept]
        size = self._keys.shape[0] * 2
        self._keys = torch.full((size,), _EMPTY, dtype=torch.int64, device=keys.device)
        self._ids = torch.full((size,), _EMPTY, dtype=torch.int64, device=keys.device)
        self.insert(keys, ids)
