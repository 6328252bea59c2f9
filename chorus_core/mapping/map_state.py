"""All that a map needs to go on where it was left: what files hold besides the Gaussians that anybody can read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from chorus_core.mapping.block_store import CELLS, NONE, BlockStore
from chorus_core.mapping.gaussian_state import COLUMNS


class MapStateError(ValueError):
    """A state that no map can have, or that does not fit this one. The message says which value."""


@dataclass(frozen=True)
class MapState:
    """A map's arrays, of the slots in use: first the N that are handed out, then the H that are not, by slot each.

    Attributes:
        map_id: UUID.
        voxel_size: metres.
        frames: integrated.
        stamp: of the last of them, nanoseconds.
        next_birth: serial number of the next Gaussian.
        handed_out: N.
        slots, births, slot_cell, hits, missed, last_hit, first_seen, last_seen, state, features, labels, confidence:
            rows of :class:`BlockStore`, [N + H, ...].
        free_slots: the others, in the order in which they will be taken again, last first, int64 [F].
        block_key, block_seen: of all block ids, int64 [B].
        free_blocks: ids that have no block, in the order in which they will be taken again, last first, int64.
        pending: blocks that changed since they were encoded last, bool [B].
    """

    map_id: str
    voxel_size: float
    frames: int
    stamp: int
    next_birth: int
    handed_out: int
    slots: np.ndarray
    births: np.ndarray
    slot_cell: np.ndarray
    state: np.ndarray
    hits: np.ndarray
    missed: np.ndarray
    last_hit: np.ndarray
    first_seen: np.ndarray
    last_seen: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    free_slots: np.ndarray
    block_key: np.ndarray
    block_seen: np.ndarray
    free_blocks: np.ndarray
    pending: np.ndarray

    def __post_init__(self) -> None:
        count, blocks = len(self.slots), len(self.block_key)
        for name, (kind, width) in _ROWS.items():
            _check_array(name, getattr(self, name), kind, count, width)
        for name, kind in _BLOCKS.items():
            _check_array(name, getattr(self, name), kind, blocks, ())
        for name, numbers in _NUMBERS.items():
            value = getattr(self, name)
            if not isinstance(value, numbers) or isinstance(value, bool):
                raise MapStateError(f"{name} = {value!r:.80}: expected a {numbers.__name__}")
        if count and (self.labels.min() < NONE):
            raise MapStateError(f"labels: expected {NONE} or more")
        for name in ("free_slots", "free_blocks"):
            _check_array(name, getattr(self, name), np.int64, len(getattr(self, name)), ())
        if not 0 <= self.handed_out <= count:
            raise MapStateError(f"handed_out = {self.handed_out}: expected 0 to {count}")
        for name, end in (
            ("slots", count + len(self.free_slots)),
            ("births", self.next_birth),
            ("slot_cell", blocks * CELLS),
        ):
            values = getattr(self, name)
            if count and (values.min() < 0 or values.max() >= end or len(np.unique(values)) < count):
                raise MapStateError(f"{name}: expected {count} different numbers from 0 to {end - 1}")
        for name, used, end in (
            ("free_slots", self.slots, count + len(self.free_slots)),
            ("free_blocks", np.flatnonzero(self.block_key != NONE), blocks),
        ):
            if not np.array_equal(np.sort(np.concatenate((used, getattr(self, name)))), np.arange(end)):
                raise MapStateError(f"{name}: expected all numbers below {end} that are not in use")
        if count and (self.block_key[self.slot_cell // CELLS] == NONE).any():
            raise MapStateError("slot_cell: a Gaussian is in a block that is not there")
        keys = self.block_key[self.block_key != NONE]
        if (keys < 0).any() or len(np.unique(keys)) < len(keys):
            raise MapStateError("block_key: expected different packed coordinates, -1 where there is no block")
        if not np.isfinite(self.state).all() or not np.isfinite(self.missed).all():
            raise MapStateError("state, missed: expected finite values")


_ROWS: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "slots": (np.int64, ()),
    "births": (np.int64, ()),
    "slot_cell": (np.int64, ()),
    "state": (np.float32, (COLUMNS,)),
    "hits": (np.int32, ()),
    "missed": (np.float32, ()),
    "last_hit": (np.int32, ()),
    "first_seen": (np.int64, ()),
    "last_seen": (np.int64, ()),
    "features": (np.float16, (None,)),
    "labels": (np.int32, ()),
    "confidence": (np.float32, ()),
}
_BLOCKS: dict[str, type] = {"block_key": np.int64, "block_seen": np.int64, "pending": np.bool_}

_NUMBERS = {"map_id": str, "voxel_size": float, "frames": int, "stamp": int, "next_birth": int, "handed_out": int}

ARRAYS = (*_ROWS, *_BLOCKS, "free_slots", "free_blocks")
NUMBERS = tuple(_NUMBERS)


def _check_array(name: str, values: np.ndarray, kind: type, count: int, width: tuple[int | None, ...]) -> None:
    shape = (count, *width)
    fits = values.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, values.shape, strict=True))
    if values.dtype != kind or not fits:
        expected = ", ".join("any" if w is None else str(w) for w in shape)
        raise MapStateError(f"{name} is {values.dtype} {values.shape}: expected {np.dtype(kind)} ({expected})")


def read_store(store: BlockStore, slots: torch.Tensor, handed_out: int, frames: int, stamp: int) -> MapState:
    """The state of a store.

    Args:
        slots: in the order of the state's rows [N + H].
        handed_out: N.
        frames, stamp: of the map.
    """
    used = store.block_used
    rows = {
        "births": store.birth, "slot_cell": store.slot_cell, "state": store.state, "hits": store.hits,
        "missed": store.missed, "last_hit": store.last_hit, "first_seen": store.first_seen,
        "last_seen": store.last_seen, "features": store.features, "labels": store.labels,
        "confidence": store.confidence,
    }  # fmt: skip
    return MapState(
        map_id=store.map_id,
        voxel_size=store.voxel_size,
        frames=frames,
        stamp=stamp,
        next_birth=store.next_birth,
        handed_out=handed_out,
        slots=slots.cpu().numpy(),
        free_slots=store.free_slots.cpu().numpy().copy(),
        free_blocks=store.free_blocks.cpu().numpy().copy(),
        block_key=store.block_key[:used].cpu().numpy().copy(),
        block_seen=store.block_seen[:used].cpu().numpy().copy(),
        pending=store.waiting().cpu().numpy(),
        **{name: array[slots].cpu().numpy() for name, array in rows.items()},
    )


def make_store(state: MapState, like: BlockStore) -> BlockStore:
    """The store of a state, with the limits of another one, whose cursors all begin anew with it.

    Features that are not as wide as that store's are left out. Every block that is pending counts as changed with the
    newest revision.
    """
    store = BlockStore(like.voxel_size, like.max_gaussians, like.device, like.feature_dim)
    store.restart(state.map_id, like.revision + 2)
    store.reserve(len(state.slots) + len(state.free_slots), len(state.block_key), state.next_birth)

    def there(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(store.device)

    slots, blocks = there(state.slots), len(state.block_key)
    for name in ("state", "hits", "missed", "last_hit", "slot_cell", "first_seen", "last_seen", "confidence"):
        getattr(store, name)[slots] = there(getattr(state, name))
    store.birth[slots] = there(state.births)
    if state.features.shape[1] == store.feature_dim:
        store.labels[slots] = there(state.labels)
        store.features[slots] = there(state.features)
    store.block_key[:blocks] = there(state.block_key)
    store.block_seen[:blocks] = there(state.block_seen)
    store.geometry_revision[:blocks] = there(state.pending) * store.revision
    store.free_slots, store.free_blocks = there(state.free_slots), there(state.free_blocks)
    store.index()
    return store
