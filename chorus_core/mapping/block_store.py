"""Where the map's Gaussians are kept: slots of flat arrays, found through blocks of 8 x 8 x 8 voxels.

A hash table finds a block; its slab of 512 cells names the slot of each voxel's Gaussian. A slot holds geometry and
meaning side by side. Each block carries the revision that last changed its geometry, the one that last changed its
features, and the revision of the model that made these: :meth:`BlockStore.changes_since` is all that a reader needs
to keep up with the map at the price of what changed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from chorus_core.mapping import block_table
from chorus_core.mapping.block_table import BlockTable
from chorus_core.mapping.gaussian_state import COLUMNS
from chorus_core.mapping.revisions import Changes, Cursor, Tombstones

BLOCK = 8
"""Voxels along the edge of a block."""
CELLS = BLOCK**3
NONE = -1

What = Literal["anything", "geometry", "features"]

_FIRST_SLOTS, _FIRST_BLOCKS = 1 << 16, 1 << 11


class BlockStore:
    """Slots and blocks.

    Args:
        voxel_size: metres.
        max_gaussians: slots at most.
        device: where the arrays live.
        feature_dim: width of the features; 0 for a map without meaning.

    Attributes:
        map_id: UUID of the map; a map that begins anew has another.
        revision: of the last change; :meth:`advance` begins the next one.
        state: geometry of each slot, see :mod:`chorus_core.mapping.gaussian_state`, float32 [S, 12].
        hits: frames that measured it, int32 [S]; 0 in a free slot.
        missed: frames that should have and did not [S].
        last_hit: number of the last frame that did, int32 [S].
        birth: serial number of its Gaussian, never used again, int64 [S]; -1 in a free slot.
        first_seen, last_seen: stamps of the first and the last frame that measured it, nanoseconds, int64 [S].
        features: compact text-aligned feature, float16 [S, d]; means nothing where ``labels`` is -1.
        labels: place in the vocabulary, -1 where not encoded yet, int32 [S].
        confidence: of the label, in [0, 1] [S].
        free_slots, free_blocks: slots and block ids to take first, the last one first, int64.
        block_key: packed coordinates of each block, int64 [B]; -1 where the id is free.
        block_seen: number of the last frame that touched it, int64 [B].
        geometry_revision, feature_revision: that last changed the block, int64 [B].
        model_revision: of the model that made the block's newest features, int64 [B]; 0 before there are any.
        encoded_revision: of the map, as it was when the block was encoded last, int64 [B]; a block whose geometry has
            changed since waits to be encoded.
    """

    state: Tensor
    hits: Tensor
    missed: Tensor
    last_hit: Tensor
    birth: Tensor
    slot_cell: Tensor
    first_seen: Tensor
    last_seen: Tensor
    features: Tensor
    labels: Tensor
    confidence: Tensor
    slab: Tensor
    block_key: Tensor
    block_seen: Tensor
    geometry_revision: Tensor
    feature_revision: Tensor
    model_revision: Tensor
    encoded_revision: Tensor

    def __init__(self, voxel_size: float, max_gaussians: int, device: torch.device, feature_dim: int = 0) -> None:
        self.voxel_size = voxel_size
        self.max_gaussians = max_gaussians
        self.device = device
        self.feature_dim = feature_dim
        self.revision = 0
        self.clear()

    def clear(self) -> None:
        """Begin another map; revisions go on, so that no older cursor is ahead of it."""
        self.map_id = str(uuid.uuid4())
        self.revision += 1
        self._births = 0
        self._tombstones = Tombstones()
        self._table = BlockTable(self.device)
        self._used = 0
        self.free_slots = self._ids(0)
        self._block_used = 0
        self.free_blocks = self._ids(0)
        for name in (*self._slot_arrays(0), *self._block_arrays(0)):
            self.__dict__.pop(name, None)
        self._grow_slots(min(self.max_gaussians, _FIRST_SLOTS))
        self._grow_blocks(_FIRST_BLOCKS)

    # ---- what there is ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Slots that hold a Gaussian."""
        return self._used - self.free_slots.shape[0]

    @property
    def used(self) -> int:
        """Slots from 0 on that hold a Gaussian or did."""
        return self._used

    @property
    def capacity(self) -> int:
        """Slots that there is memory for."""
        return self.birth.shape[0]

    @property
    def block_used(self) -> int:
        """Block ids from 0 on that are in use or were."""
        return self._block_used

    @property
    def next_birth(self) -> int:
        """Serial number of the next Gaussian."""
        return self._births

    @property
    def block_edge(self) -> float:
        """Metres."""
        return BLOCK * self.voxel_size

    def occupied(self) -> Tensor:
        """Slots that hold a Gaussian, ascending, int64 [N]."""
        return (self.birth[: self._used] != NONE).nonzero().squeeze(1)

    def blocks(self, where: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Ids of all blocks, or of those whose centres [B, 3] a predicate holds of (bool [B]), int64 [B]."""
        keys = self.block_key[: self._block_used]
        used = keys != NONE
        if where is not None:
            used &= where(self._centers(keys))
        return used.nonzero().squeeze(1)

    def block_centers(self, blocks: Tensor) -> Tensor:
        """Centres of blocks in the world, metres [B, 3]."""
        return self._centers(self.block_key[blocks])

    def _centers(self, keys: Tensor) -> Tensor:
        return (block_table.unpack(keys).float() + 0.5) * self.block_edge

    def slots_in(self, blocks: Tensor) -> Tensor:
        """Slots of the Gaussians in some blocks, block after block, int64 [N]."""
        cells = self.slab[blocks].view(-1)
        return cells[cells >= 0].long()

    def block_of(self, slots: Tensor) -> Tensor:
        """Ids of the blocks that some slots lie in, int64 [N]."""
        return self.slot_cell[slots] // CELLS

    # ---- revisions --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Begin a revision: what is changed from now on is news to every cursor so far."""
        self.revision += 1

    def mark_geometry(self, slots: Tensor) -> None:
        """The geometry of some slots [N] changes with this revision."""
        self.geometry_revision[self.block_of(slots)] = self.revision

    def mark_features(self, slots: Tensor, model_revision: int) -> None:
        """Features of some slots [N], made by a revision of the model, change with this revision."""
        self.mark_labels(slots)
        self.model_revision[self.block_of(slots)] = model_revision

    def mark_labels(self, slots: Tensor) -> None:
        """Labels of some slots [N] change with this revision."""
        self.feature_revision[self.block_of(slots)] = self.revision

    def mark_encoded(self, blocks: Tensor, revision: int) -> None:
        """Blocks [B] were encoded as they were at a revision."""
        self.encoded_revision[blocks] = self.encoded_revision[blocks].clamp(min=revision)

    def waiting(self) -> Tensor:
        """Which block ids [B] hold geometry that was not encoded yet, bool."""
        return self.geometry_revision[: self._block_used] > self.encoded_revision[: self._block_used]

    def mark_all(self) -> None:
        """Every block is news, as what it hands out is judged by other rules."""
        self.geometry_revision[self.blocks()] = self.revision

    def changes_since(self, cursor: Cursor, what: What = "anything") -> Changes:
        """What changed since a reader got its cursor, of geometry, features and labels, or either."""
        restarted = cursor.map_id != self.map_id or cursor.revision < self._tombstones.complete_since
        now = Cursor(self.map_id, self.revision)
        if restarted:
            blocks = self.blocks()
            return Changes(blocks[self._holds_any(blocks)], self._ids(0), True, now)
        geometry, features = (r[: self._block_used] for r in (self.geometry_revision, self.feature_revision))
        revisions = {"geometry": geometry, "features": features}.get(what)
        if revisions is None:
            revisions = torch.maximum(geometry, features)
        blocks = (revisions > cursor.revision).nonzero().squeeze(1)
        blocks = blocks[self.block_key[blocks] != NONE]
        filled = self._holds_any(blocks)
        removed = self._tombstones.since(cursor.revision, self.device)
        ids = self._table.find(removed)  # of those that are there again, which is news only if they hold anything
        removed = removed[(ids == NONE) | ~self._holds_any(ids.clamp(min=0))]
        removed = torch.unique(torch.cat((self.block_key[blocks[~filled]], removed)))
        return Changes(blocks[filled], removed, False, now)

    def _holds_any(self, blocks: Tensor) -> Tensor:
        return (self.slab[blocks] >= 0).any(dim=1)

    # ---- finding, taking, giving back -------------------------------------------------------------------------

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Packed key of the block [P] and cell inside the block [P] of points [P, 3]."""
        voxels = torch.floor(points / self.voxel_size).long()
        blocks = voxels >> 3  # floor division by BLOCK
        inside = voxels & (BLOCK - 1)
        limit = 1 << 20
        keys = block_table.pack(blocks.clamp(-limit, limit - 1))
        return keys, (inside[:, 0] * BLOCK + inside[:, 1]) * BLOCK + inside[:, 2]

    def slots_at(self, points: Tensor) -> Tensor:
        """Slots of the Gaussians in the voxels of points [P, 3], -1 where there is none, int64 [P]."""
        keys, inside = self.locate(points)
        blocks = self._table.find(keys)
        cells = blocks.clamp(min=0) * CELLS + inside
        return torch.where(blocks >= 0, self.slab.view(-1)[cells].long(), NONE)

    def find_blocks(self, keys: Tensor) -> Tensor:
        """Ids of the blocks of packed keys, -1 where there is none, int64 [P] of int64 [P]."""
        return self._table.find(keys)

    def make_blocks(self, keys: Tensor) -> Tensor:
        """Ids of the blocks of packed keys [P]; those that are not there yet are made."""
        ids = self._table.find(keys)
        missing = (ids == NONE).nonzero().squeeze(1)
        if missing.numel() == 0:
            return ids
        new_keys = torch.unique(keys[missing])
        kept = max(self.free_blocks.numel() - new_keys.numel(), 0)
        reused = self.free_blocks[kept:]
        grown = new_keys.numel() - reused.numel()
        if self._block_used + grown > self.slab.shape[0]:
            self._grow_blocks(max(self._block_used + grown, 2 * self.slab.shape[0]))
        self.free_blocks = self.free_blocks[:kept]
        new_ids = torch.cat((reused, torch.arange(self._block_used, self._block_used + grown, device=self.device)))
        self._block_used += grown
        self.slab[new_ids] = NONE
        self.block_key[new_ids] = new_keys
        self._table.insert(new_keys, new_ids)
        ids[missing] = self._table.find(keys[missing])
        return ids

    @property
    def room(self) -> int:
        """Slots that can be taken before some must be given back."""
        return self.free_slots.numel() + self.max_gaussians - self._used

    def take_slots(self, cells: Tensor, stamp: int) -> Tensor:
        """Give Gaussians, first seen in a frame of that stamp, to empty cells; as many as there is room for.

        Args:
            cells: numbers of the cells, block id * 512 + cell inside, int64 [C].

        Returns:
            Cleared slots of the first cells, int64 [<=C].
        """
        count = min(cells.numel(), self.room)
        kept = max(self.free_slots.numel() - count, 0)
        reused = self.free_slots[kept:]
        grown = count - reused.numel()
        if self._used + grown > self.capacity:  # before anything is changed: memory may run out
            self._grow_slots(min(max(self._used + grown, 2 * self.capacity), self.max_gaussians))
        self.free_slots = self.free_slots[:kept]
        slots = torch.cat((reused, torch.arange(self._used, self._used + grown, device=self.device)))
        self._used += grown
        self.state[slots] = 0
        self.hits[slots] = 0
        self.missed[slots] = 0
        self.labels[slots] = NONE
        self.first_seen[slots] = stamp
        self.birth[slots] = torch.arange(self._births, self._births + count, device=self.device)
        self._births += count
        self.slot_cell[slots] = cells[:count]
        self.slab.view(-1)[cells[:count]] = slots.int()
        return slots

    def release(self, slots: Tensor) -> None:
        """Free slots [N] and empty their voxels; their blocks stay, and count as changed."""
        self.mark_geometry(slots)
        self.slab.view(-1)[self.slot_cell[slots]] = NONE
        self.hits[slots] = 0
        self.labels[slots] = NONE
        self.birth[slots] = NONE
        self.free_slots = torch.cat((self.free_slots, slots))

    def remove_blocks(self, blocks: Tensor) -> int:
        """Remove blocks [B] with all that is in them; how many Gaussians that were."""
        slots = self.slots_in(blocks)
        self.release(slots)
        keys = self.block_key[blocks]
        self._tombstones.add(self.revision, keys)
        self._table.remove(keys)
        self.block_key[blocks] = NONE
        for revisions in (self.geometry_revision, self.feature_revision, self.model_revision, self.encoded_revision):
            revisions[blocks] = 0
        self.free_blocks = torch.cat((self.free_blocks, blocks))
        return slots.numel()

    def become(self, other: BlockStore) -> None:
        """Take over the arrays of another store, which is not to be used again."""
        self.__dict__.update(other.__dict__)

    def reserve(self, slots: int, blocks: int, next_birth: int) -> None:
        """Make room for slots and blocks whose numbers are given from outside, in a store that is empty."""
        self._used, self._block_used, self._births = slots, blocks, next_birth
        self._grow_slots(max(slots, self.capacity))
        self._grow_blocks(max(blocks, len(self.block_key)))

    def index(self) -> None:
        """Find the blocks and Gaussians that were written into the arrays from outside."""
        slots, blocks = self.occupied(), self.blocks()
        self.slab.view(-1)[self.slot_cell[slots]] = slots.int()
        self._table.insert(self.block_key[blocks], blocks)

    def restart(self, map_id: str, revision: int) -> None:
        """Go by another identity; every cursor older than the revision before this one begins anew."""
        self.map_id, self.revision = map_id, revision
        self._tombstones.complete_since = revision - 1

    # ---- memory -----------------------------------------------------------------------------------------------

    def _slot_arrays(self, count: int) -> dict[str, Tensor]:
        zeros, d = torch.zeros, self.device
        return {
            "state": zeros((count, COLUMNS), device=d),
            "hits": zeros(count, dtype=torch.int32, device=d),
            "missed": zeros(count, device=d),
            "last_hit": zeros(count, dtype=torch.int32, device=d),
            "birth": self._ids(count),
            "slot_cell": self._ids(count),
            "first_seen": zeros(count, dtype=torch.int64, device=d),
            "last_seen": zeros(count, dtype=torch.int64, device=d),
            "features": zeros((count, self.feature_dim), dtype=torch.float16, device=d),
            "labels": torch.full((count,), NONE, dtype=torch.int32, device=d),
            "confidence": zeros(count, device=d),
        }

    def _block_arrays(self, count: int) -> dict[str, Tensor]:
        return {
            "slab": torch.full((count, CELLS), NONE, dtype=torch.int32, device=self.device),
            "block_key": self._ids(count),
            "block_seen": self._ids(count),
            **{
                name: torch.zeros(count, dtype=torch.int64, device=self.device)
                for name in ("geometry_revision", "feature_revision", "model_revision", "encoded_revision")
            },
        }

    def _grow_slots(self, capacity: int) -> None:
        self._replace(self._slot_arrays(capacity))

    def _grow_blocks(self, capacity: int) -> None:
        self._replace(self._block_arrays(capacity))

    def _replace(self, larger: dict[str, Tensor]) -> None:
        """Replace arrays by larger ones that start with their contents; all or none, should memory run out before."""
        for name, array in larger.items():
            old = self.__dict__.get(name)
            if old is not None:
                array[: old.shape[0]] = old
        self.__dict__.update(larger)

    def _ids(self, count: int) -> Tensor:
        return torch.full((count,), NONE, dtype=torch.int64, device=self.device)
