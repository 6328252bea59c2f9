"""The map: a sparse voxel grid that holds at most one 3D Gaussian per voxel, grown from posed RGB-D frames.

Voxels live in blocks of 8 x 8 x 8. A hash table finds a block; a slab of 512 cells a block names the slot of each
voxel's Gaussian in flat arrays. What a frame does is proportional to its pixels and to the blocks in view; only to
find these, one pass looks at the centre of every block there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.config import MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import block_table, carving
from chorus_core.mapping.block_table import BlockTable
from chorus_core.mapping.gaussian_state import (
    COLUMNS,
    EVIDENCE,
    MAX_EVIDENCE,
    MEAN,
    MEMORY,
    NORMAL,
    WEIGHT,
    from_gaussians,
    share_of,
    to_gaussians,
)  # fmt: skip
from chorus_core.mapping.surface import DeviceFrame, SurfacePixels, choose_stride, measure

BLOCK = 8
"""Voxels along the edge of a block."""
_CELLS = BLOCK**3
_NONE = -1
_ESTABLISHED = 2
"""Frames that measured a Gaussian from which on pixels beside its voxel join it."""


@dataclass
class MapSnapshot:
    """A copy of (part of) the map that stays as it is while the map moves on.

    Attributes:
        gaussians: N Gaussians in the world frame.
        slots: where each lives in the map's arrays, int64 [N].
        births: serial number of each, never reused, int64 [N]; a slot whose birth changed holds another Gaussian.
        stamp: of the last integrated frame, nanoseconds.
    """

    gaussians: Gaussians
    slots: Tensor
    births: Tensor
    stamp: int


@dataclass
class IntegrateReport:
    """What one frame did to the map."""

    pixels: int
    touched: int
    added: int
    carved: int
    evicted: int
    dropped: int
    held: str = ""
    """Why the frame was held back instead; see :mod:`chorus_core.mapping.frame_gate`."""


class GaussianMap:
    """Gaussians fused from frames. Not thread-safe: the pipeline serialises access.

    Args:
        config: voxel size, ranges, limits.
        device: where the arrays live.
    """

    def __init__(self, config: MapConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self.frames = 0
        self.stamp = 0
        self._births = 0
        self._table = BlockTable(self.device)
        self._capacity = 0
        self._used = 0
        self._free_slots = self._indices(0)
        self._allocate_slots(min(config.max_gaussians, 1 << 16))
        self._block_used = 0
        self._free_blocks = self._indices(0)
        self._slab = torch.empty((0, _CELLS), dtype=torch.int32, device=self.device)
        self._block_key = self._indices(0)
        self._block_seen = self._indices(0)
        self._block_dirty = torch.empty(0, dtype=torch.bool, device=self.device)
        self._allocate_blocks(1 << 11)

    # ---- the public verbs -------------------------------------------------------------------------------------

    def integrate(self, frame: RgbdFrame) -> IntegrateReport:
        """Fuse a frame: measure the surface, give every voxel it touches a Gaussian, update it, carve free space."""
        on_device = DeviceFrame.upload(frame, self.device)
        stride = choose_stride(frame.depth, frame.intrinsics, self.config)
        pixels = measure(on_device, self.config, stride, phase=self.frames)
        self.frames += 1
        self.stamp = frame.stamp
        slots, added, evicted, dropped = self._slots_of(pixels)
        touched = self._fuse(pixels, slots)
        carved = self._look_again(on_device, stride) if self.frames > 1 else 0
        return IntegrateReport(pixels.points.shape[0], touched, added, carved, evicted, dropped)

    def __len__(self) -> int:
        """Gaussians stored (also those not yet seen often enough to be handed out)."""
        return self._used - self._free_slots.shape[0]

    def export(self, min_hits: int | None = None) -> MapSnapshot:
        """A copy of all Gaussians that are sure enough.

        Those that the configured share of the frames which should have measured them did, which tells depth noise from
        a surface however often it was looked at. With ``min_hits`` those seen in so many frames instead.
        """
        slots = torch.arange(self._used, device=self.device)
        if min_hits is None:
            return self._snapshot(slots[self._is_sure(slots)])
        hits = max(min(min_hits, self.frames), 1)  # a freed slot has none
        return self._snapshot(slots[self._hits[slots] >= hits])

    def export_blocks(self, blocks: Tensor) -> MapSnapshot:
        """The sure Gaussians of some blocks (ids [B]) as a copy."""
        slots = self._slots_in(blocks)
        return self._snapshot(slots[self._is_sure(slots)])

    def _is_sure(self, slots: Tensor) -> Tensor:
        """Which of some slots [N] are handed out, bool [N]; a freed one is not."""
        hits = self._hits[slots]
        enough = hits >= max(min(self.config.min_hits, self.frames), 1)
        return enough & (share_of(hits, self._missed[slots]) >= self.config.min_share)

    def take_dirty(self) -> Tensor:
        """Ids of the blocks changed since the last call, int64 [B]; marks them clean."""
        dirty = self._block_dirty[: self._block_used].nonzero().squeeze(1)
        self._block_dirty[dirty] = False
        return dirty

    def block_centers(self, blocks: Tensor) -> Tensor:
        """Centres of blocks in the world, metres [B, 3]."""
        return (block_table.unpack(self._block_key[blocks]).float() + 0.5) * self.block_edge

    @property
    def block_edge(self) -> float:
        """Edge of a block, metres."""
        return BLOCK * self.config.voxel_size

    def blocks(self) -> Tensor:
        """Ids of all blocks in use, int64 [B]."""
        return (self._block_key[: self._block_used] != _NONE).nonzero().squeeze(1)

    def points_in_view(self, frame: DeviceFrame) -> Tensor:
        """Centres of the Gaussians in view of a frame and in range, metres [N, 3]."""
        return self._state[self._slots_in(self._visible_blocks(frame)), MEAN]

    def still_there(self, slots: Tensor, births: Tensor) -> Tensor:
        """Which snapshot entries still name the same Gaussian, bool [N]."""
        return self._birth[slots] == births

    def insert(self, gaussians: Gaussians, stamp: int = 0) -> None:
        """Load Gaussians (a saved map) as if they had been seen often; one per voxel survives."""
        pixels, evidence = from_gaussians(gaussians.to(self.device))
        self.frames += 1
        self.stamp = stamp
        slots, *_ = self._slots_of(pixels)
        self._fuse(pixels, slots)
        kept = slots != _NONE
        self._hits[slots[kept]] = max(self.config.min_hits, _ESTABLISHED)
        self._state[slots[kept], EVIDENCE] = evidence[kept]

    # ---- from pixels to slots ---------------------------------------------------------------------------------

    def _slots_of(self, pixels: SurfacePixels) -> tuple[Tensor, int, int, int]:
        """The slot of each pixel's voxel [P] (-1 where the map is full), and counts: added, evicted, dropped."""
        keys, inside = self._locate(pixels.points)
        block_ids = self._blocks_of(keys)
        self._block_seen[block_ids] = self.frames
        cells = block_ids * _CELLS + inside  # [P]

        slab = self._slab.view(-1)
        slots = slab[cells].long()
        fresh = (slots == _NONE).nonzero().squeeze(1)  # pixels in voxels without a Gaussian
        known = self._same_surface(pixels, fresh)
        slots[fresh] = known
        joined = self._slot_cell[known[known != _NONE]] // _CELLS
        self._block_seen[joined] = self.frames  # in use, so not to be evicted by this frame
        fresh = fresh[known == _NONE]
        if fresh.numel() == 0:
            return slots, 0, 0, 0
        # All pixels of a new voxel write their number into its cell; the one that stays speaks for the voxel.
        claims = (-2 - torch.arange(fresh.numel(), device=self.device)).int()
        slab[cells[fresh]] = claims
        winners = (slab[cells[fresh]] == claims).nonzero().squeeze(1)
        new_cells = cells[fresh[winners]]
        slab[new_cells] = _NONE
        new_slots, evicted = self._take_slots(new_cells.numel())
        placed = new_slots.numel()
        slab[new_cells[:placed]] = new_slots.int()
        self._slot_cell[new_slots] = new_cells[:placed]
        slots[fresh] = slab[cells[fresh]].long()
        return slots, placed, evicted, new_cells.numel() - placed

    def _same_surface(self, pixels: SurfacePixels, fresh: Tensor) -> Tensor:
        """For pixels in empty voxels, the established Gaussian just before or behind along the normal, if any [F].

        Depth noise exceeds a voxel a few metres away. Without this, every frame would add another sheet to the surface.
        """
        points, normals = pixels.points[fresh], pixels.normals[fresh]
        offsets = torch.tensor((-1.0, 1.0, -2.0, 2.0), device=self.device) * self.config.voxel_size  # nearest first
        around = (points[:, None] + normals[:, None] * offsets[:, None]).view(-1, 3)  # [F * 4, 3]
        block_keys, cells_inside = self._locate(around)
        blocks = self._table.find(block_keys)
        cells = blocks.clamp(min=0) * _CELLS + cells_inside
        slots = torch.where(blocks >= 0, self._slab.view(-1)[cells].long(), _NONE).view(-1, len(offsets))
        candidates = slots.clamp(min=0)
        alike = (self._state[candidates, NORMAL] * normals[:, None]).sum(dim=2) > 0.5
        fits = (slots >= 0) & alike & (self._hits[candidates] >= _ESTABLISHED)  # [F, 4]
        first = fits.int().argmax(dim=1, keepdim=True)
        return torch.where(fits.gather(1, first), slots.gather(1, first), _NONE).squeeze(1)

    def _locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Packed key of the block [P] and cell inside the block [P] of points [P, 3]."""
        voxels = torch.floor(points / self.config.voxel_size).long()
        blocks = voxels >> 3  # floor division by BLOCK
        inside = voxels & (BLOCK - 1)
        limit = 1 << 20
        keys = block_table.pack(blocks.clamp(-limit, limit - 1))
        return keys, (inside[:, 0] * BLOCK + inside[:, 1]) * BLOCK + inside[:, 2]

    def _blocks_of(self, keys: Tensor) -> Tensor:
        """Block ids of packed keys [P], making the blocks that are not there yet."""
        ids = self._table.find(keys)
        missing = (ids == _NONE).nonzero().squeeze(1)
        if missing.numel() == 0:
            return ids
        new_keys = torch.unique(keys[missing])
        count = new_keys.numel()
        reused = self._free_blocks[-count:] if self._free_blocks.numel() else self._free_blocks
        self._free_blocks = self._free_blocks[: self._free_blocks.numel() - reused.numel()]
        grown = count - reused.numel()
        if self._block_used + grown > self._slab.shape[0]:
            self._allocate_blocks(max(self._block_used + grown, 2 * self._slab.shape[0]))
        new_ids = torch.cat((reused, torch.arange(self._block_used, self._block_used + grown, device=self.device)))
        self._block_used += grown
        self._slab[new_ids] = _NONE
        self._block_key[new_ids] = new_keys
        self._table.insert(new_keys, new_ids)
        ids[missing] = self._table.find(keys[missing])
        return ids

    def _take_slots(self, count: int) -> tuple[Tensor, int]:
        """Up to ``count`` cleared slots [<=count]; grows the arrays, then evicts, before giving fewer."""
        evicted = 0
        room = self._free_slots.numel() + self.config.max_gaussians - self._used
        if count > room:
            evicted = self._evict(count - room)
        reused = self._free_slots[max(self._free_slots.numel() - count, 0) :]
        self._free_slots = self._free_slots[: self._free_slots.numel() - reused.numel()]
        grown = min(count - reused.numel(), self.config.max_gaussians - self._used)
        if self._used + grown > self._capacity:
            self._allocate_slots(min(max(self._used + grown, 2 * self._capacity), self.config.max_gaussians))
        slots = torch.cat((reused, torch.arange(self._used, self._used + grown, device=self.device)))
        self._used += grown
        self._state[slots] = 0
        self._hits[slots] = 0
        self._missed[slots] = 0
        self._birth[slots] = torch.arange(self._births, self._births + slots.numel(), device=self.device)
        self._births += slots.numel()
        return slots, evicted

    # ---- fusing, carving, evicting ----------------------------------------------------------------------------

    def _fuse(self, pixels: SurfacePixels, slots: Tensor) -> int:
        """Update the running means of every slot touched; returns how many were."""
        kept = slots != _NONE
        # Give the touched slots numbers 0..M-1 without sorting: the pixel whose number stays represents its slot.
        order = torch.arange(slots.numel(), device=self.device, dtype=torch.int32)
        slots = torch.where(kept, slots, self._capacity)  # the last cell of the scratch takes what has no slot
        self._scratch[slots] = order
        touched = slots[(self._scratch[slots] == order) & kept]  # [M] unique
        if touched.numel() == 0:
            return 0
        self._scratch[self._capacity] = 0
        self._scratch[touched] = torch.arange(touched.numel(), device=self.device, dtype=torch.int32)
        group = self._scratch[slots].long()  # [P]
        weights = (pixels.weights * kept)[:, None]
        values = torch.cat((pixels.points, pixels.colors, pixels.normals, pixels.footprints[:, None]), dim=1)
        values = torch.cat((values * weights, weights), dim=1)  # [P, 11]
        sums = torch.zeros((touched.numel(), values.shape[1]), device=self.device).index_add_(0, group, values)

        # One frame counts as one observation, however many of its pixels fall into the voxel.
        observed = sums[:, :-1] / sums[:, -1:].clamp(min=1e-12)  # [M, 10]
        weight = (sums[:, -1:] * 4).clamp(0.02, 1.0)
        old = self._state[touched]
        means, old_weight, evidence = old[:, :WEIGHT], old[:, WEIGHT, None], old[:, EVIDENCE, None]
        means = means + weight / (old_weight + weight) * (observed - means)
        weight = (old_weight + weight).clamp(max=self.config.max_weight)
        self._state[touched] = torch.cat((means, weight, (evidence + 1.0).clamp(max=MAX_EVIDENCE)), dim=1)
        self._hits[touched] += 1
        self._last_hit[touched] = self.frames
        self._block_dirty[self._slot_cell[touched] // _CELLS] = True
        return touched.numel()

    def _look_again(self, frame: DeviceFrame, stride: int) -> int:
        """Hold what is known of the blocks in view against a frame; how many Gaussians it takes from the map.

        What the frame sees through loses evidence, and is removed when none is left. What it should have measured and
        did not has missed a frame. Only blocks in view are examined, a bounded number a frame, taking turns.
        """
        blocks = self._visible_blocks(frame)
        if blocks.numel() == 0:
            return 0
        slots = self._slots_in(blocks)
        state = self._state[slots]
        found = carving.look(state[:, MEAN], state[:, NORMAL], frame, self.config, stride)
        expected = torch.where(self._last_hit[slots] == self.frames, 0.0, found.expected)
        sure = self._is_sure(slots)
        self._missed[slots] = (self._missed[slots] + expected).clamp(max=MEMORY)
        lost = slots[sure & ~self._is_sure(slots)]
        self._block_dirty[self._slot_cell[lost] // _CELLS] = True
        through = slots[found.through]
        if not self.config.carve or through.numel() == 0:
            return 0
        evidence = self._state[through, EVIDENCE] - 1.0
        self._state[through, EVIDENCE] = evidence
        gone = through[evidence <= 0]
        self._release(gone)
        return gone.numel()

    def _visible_blocks(self, frame: DeviceFrame) -> Tensor:
        """Ids of the blocks whose centre is in view, at most the carving budget's worth, int64 [B]."""
        ids = torch.arange(self._block_used, device=self.device)
        used = self._block_key[: self._block_used] != _NONE
        visible = (used & carving.in_view(self.block_centers(ids), frame, self.config)).nonzero().squeeze(1)
        limit = max(self.config.carve_budget // 64, 1)  # a block on a surface holds about 64 Gaussians
        turns = -(-visible.numel() // limit)
        return visible[(visible + self.frames) % turns == 0] if turns > 1 else visible

    def _slots_in(self, blocks: Tensor) -> Tensor:
        cells = self._slab[blocks].view(-1)
        return cells[cells >= 0].long()

    def _release(self, slots: Tensor) -> None:
        """Free slots and empty their voxels."""
        cells = self._slot_cell[slots]
        self._slab.view(-1)[cells] = _NONE
        self._block_dirty[cells // _CELLS] = True
        self._hits[slots] = 0
        self._birth[slots] = _NONE
        self._free_slots = torch.cat((self._free_slots, slots))

    def _evict(self, wanted: int) -> int:
        """Drop the least recently seen blocks until ``wanted`` slots, or a tenth of the map, are free."""
        wanted = max(wanted, self.config.max_gaussians // 10)
        blocks = self.blocks()
        oldest_first = blocks[torch.argsort(self._block_seen[blocks])]
        oldest_first = oldest_first[self._block_seen[oldest_first] < self.frames]  # never what this frame sees
        counts = (self._slab[oldest_first] >= 0).sum(dim=1).cumsum(0)
        enough = int((counts < wanted).sum()) + 1
        victims = oldest_first[:enough]
        slots = self._slots_in(victims)
        self._release(slots)
        self._table.remove(self._block_key[victims])
        self._block_key[victims] = _NONE
        self._block_dirty[victims] = False
        self._free_blocks = torch.cat((self._free_blocks, victims))
        return slots.numel()

    # ---- storage ----------------------------------------------------------------------------------------------

    def _snapshot(self, slots: Tensor) -> MapSnapshot:
        """Copies of the Gaussians in some slots [N]."""
        gaussians = to_gaussians(self._state[slots], self.config.voxel_size)
        return MapSnapshot(gaussians, slots.clone(), self._birth[slots], self.stamp)

    def _indices(self, count: int) -> Tensor:
        return torch.full((count,), _NONE, dtype=torch.int64, device=self.device)

    def _allocate_slots(self, capacity: int) -> None:
        self._grow("_state", torch.zeros((capacity, COLUMNS), device=self.device))
        self._grow("_hits", torch.zeros(capacity, dtype=torch.int32, device=self.device))
        self._grow("_last_hit", torch.zeros(capacity, dtype=torch.int32, device=self.device))
        self._grow("_missed", torch.zeros(capacity, device=self.device))
        self._grow("_birth", self._indices(capacity))
        self._grow("_slot_cell", self._indices(capacity))
        self._scratch = torch.zeros(capacity + 1, dtype=torch.int32, device=self.device)
        self._capacity = capacity

    def _allocate_blocks(self, capacity: int) -> None:
        self._grow("_slab", torch.full((capacity, _CELLS), _NONE, dtype=torch.int32, device=self.device))
        self._grow("_block_key", self._indices(capacity))
        self._grow("_block_seen", self._indices(capacity))
        self._grow("_block_dirty", torch.zeros(capacity, dtype=torch.bool, device=self.device))

    def _grow(self, name: str, larger: Tensor) -> None:
        """Replace an array by a larger one that starts with its contents."""
        old = getattr(self, name, None)
        if old is not None:
            larger[: old.shape[0]] = old
        setattr(self, name, larger)
