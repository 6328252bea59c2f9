"""What the map hands out, on the host, kept up to date by what changed: clouds and objects are made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.spatial import cKDTree

from chorus_core.mapping import block_table
from chorus_core.mapping.gaussian_map import GaussianMap
from chorus_core.mapping.gaussian_state import COLOR, MEAN
from chorus_core.mapping.revisions import Cursor

_STEPS_AT_MOST = 1000
"""Blocks around each that are looked up one by one; a wider search goes through the blocks there are."""


@dataclass(frozen=True)
class Touched:
    """What a refresh brought.

    Attributes:
        keys: packed keys of the blocks that changed or went, int64 [K].
        slots: that were handed out in them before, int64 [L].
        restarted: all that was known before is forgotten; ``slots`` is empty.
    """

    keys: np.ndarray
    slots: np.ndarray
    restarted: bool

    def __bool__(self) -> bool:
        """Whether there was any news."""
        return self.restarted or len(self.keys) > 0

    def then(self, later: Touched) -> Touched:
        """What two refreshes, one after the other, brought."""
        if later.restarted:
            return later
        keys, slots = (np.concatenate(pair) for pair in ((self.keys, later.keys), (self.slots, later.slots)))
        return Touched(np.unique(keys), slots, self.restarted)


NOTHING = Touched(np.zeros(0, np.int64), np.zeros(0, np.int64), False)


class MapMirror:
    """Rows by slot of the map.

    Args:
        map_: is read with its lock held; the mirror itself belongs to one thread at a time.

    Attributes:
        births: serial number of the Gaussian that a slot hands out, -1 where it hands out none, int64 [S].
        means: metres, float32 [S, 3].
        colors: RGB, uint8 [S, 3].
        labels: place in the vocabulary, -1 where not encoded yet, int32 [S].
        confidence: of the label, in [0, 1], float32 [S].
        first_seen, last_seen: stamps, nanoseconds, int64 [S].
        stamp: of the last frame in it, nanoseconds.
        cursor: how far the map was read.
        count: Gaussians handed out.
        labelled: of these, how many have a label.
    """

    births: np.ndarray
    means: np.ndarray
    colors: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    first_seen: np.ndarray
    last_seen: np.ndarray

    def __init__(self, map_: GaussianMap) -> None:
        self._map = map_
        self._clear()

    def _clear(self) -> None:
        for name in _ROWS:
            self.__dict__.pop(name, None)
        self._slots_of: dict[int, np.ndarray] = {}
        self._grow(0)
        self.cursor = Cursor()
        self.stamp = self.count = self.labelled = 0

    def refresh(self) -> Touched:
        """Read what changed; what that was."""
        with self._map.lock:
            changes = self._map.changes_since(self.cursor)
            store, capacity = self._map.store, self._map.store.capacity
            slots = store.slots_in(changes.blocks)
            slots = slots[self._map.is_sure(slots)]
            state = store.state[slots]
            found = {
                "births": store.birth[slots],
                "means": state[:, MEAN],
                "colors": (state[:, COLOR].clamp(0, 1) * 255).round().byte(),
                "labels": store.labels[slots],
                "confidence": store.confidence[slots],
                "first_seen": store.first_seen[slots],
                "last_seen": store.last_seen[slots],
            }
            keys = store.block_key[store.block_of(slots)]
            touched = torch.cat((store.block_key[changes.blocks], changes.removed))
            stamp = self._map.stamp
            rows = {name: values.cpu().numpy() for name, values in found.items()}
            slots, keys, touched = (t.cpu().numpy() for t in (slots, keys, touched))
        if changes.restarted:
            self._clear()
        self._grow(capacity)
        left = self.slots_in(touched)
        more = len(slots) - len(left)
        more_labelled = int((rows["labels"] >= 0).sum()) - int((self.labels[left] >= 0).sum())
        self.births[left] = -1
        self.labels[left] = -1
        for name, values in rows.items():
            getattr(self, name)[slots] = values
        for key in touched.tolist():
            self._slots_of.pop(key, None)
        self._slots_of |= _by_block(keys, slots)
        self.count, self.labelled = self.count + more, self.labelled + more_labelled
        self.stamp, self.cursor = stamp, changes.cursor
        return Touched(touched, left, changes.restarted)

    def everything(self) -> Touched:
        """As if all blocks had changed."""
        return Touched(np.fromiter(self._slots_of, np.int64, len(self._slots_of)), self.handed_out, False)

    @property
    def handed_out(self) -> np.ndarray:
        """Slots of all Gaussians handed out, ascending, int64 [N]."""
        return np.flatnonzero(self.births >= 0)

    def slots_in(self, keys: Iterable[int] | np.ndarray) -> np.ndarray:
        """Slots that are handed out in the blocks of some packed keys, int64 [L]."""
        keys = keys.tolist() if isinstance(keys, np.ndarray) else keys
        parts = [self._slots_of[key] for key in keys if key in self._slots_of]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def keys_around(self, keys: np.ndarray, metres: float) -> np.ndarray:
        """Keys of the blocks that lie so near to some blocks [K], these among them; not all of them exist [M]."""
        # A Gaussian may lie outside its own block: pixels join it from two voxels away.
        reach = int(np.ceil((metres + 4 * self._map.store.voxel_size) / self._map.store.block_edge))
        if len(keys) >= len(self._slots_of):  # all there are, as a rule
            return np.union1d(keys, np.fromiter(self._slots_of, np.int64, len(self._slots_of)))
        if (2 * reach + 1) ** 3 <= _STEPS_AT_MOST:
            steps = torch.from_numpy(np.array(list(product(range(-reach, reach + 1), repeat=3))))
            offsets = block_table.pack(steps) - block_table.pack(torch.zeros_like(steps[:1]))  # keys are linear
            return np.unique(keys[:, None] + offsets.numpy())
        known = np.fromiter(self._slots_of, np.int64, len(self._slots_of))
        if not len(keys) or not len(known):
            return keys
        here, there = (block_table.unpack(torch.from_numpy(k)).numpy() for k in (keys, known))
        steps_to, _ = cKDTree(here).query(there, p=np.inf, distance_upper_bound=reach + 0.5)
        return np.union1d(keys, known[np.isfinite(steps_to)])

    def _grow(self, capacity: int) -> None:
        held = len(self.births) if "births" in self.__dict__ else 0
        if capacity <= held and held:
            return
        grown = {name: np.full((capacity, *width), empty, kind) for name, (kind, width, empty) in _ROWS.items()}
        for name, larger in grown.items():
            larger[:held] = self.__dict__.get(name, larger[:0])
        self.__dict__.update(grown)  # all or none, should memory have run out above


_ROWS: dict[str, tuple[type, tuple[int, ...], int]] = {
    "births": (np.int64, (), -1),
    "means": (np.float32, (3,), 0),
    "colors": (np.uint8, (3,), 0),
    "labels": (np.int32, (), -1),
    "confidence": (np.float32, (), 0),
    "first_seen": (np.int64, (), 0),
    "last_seen": (np.int64, (), 0),
}


def _by_block(keys: np.ndarray, slots: np.ndarray) -> dict[int, np.ndarray]:
    """Slots by the key of their block, of slots that come block after block [N]."""
    starts = np.flatnonzero(np.diff(keys, prepend=-2)) if len(keys) else np.zeros(0, np.int64)
    parts = np.split(slots, starts[1:])
    return {key: part.copy() for key, part in zip(keys[starts].tolist(), parts, strict=False)}  # a view keeps all alive
