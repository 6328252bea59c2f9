"""The map: a sparse voxel grid that holds at most one 3D Gaussian per voxel, grown from posed RGB-D frames.

Where Gaussians are kept, and how readers learn of changes, is :mod:`chorus_core.mapping.block_store`. What a frame does
is proportional to its pixels and to the blocks in view; only to find these, one pass looks at the centre of every
block there is.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_core.config import MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import carving
from chorus_core.mapping.block_store import BLOCK, CELLS, NONE, BlockStore, What
from chorus_core.mapping.gaussian_state import (
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
from chorus_core.mapping.map_state import MapState, MapStateError, make_store, read_store
from chorus_core.mapping.reports import IntegrateReport, MapSnapshot
from chorus_core.mapping.revisions import Changes, Cursor
from chorus_core.mapping.surface import DeviceFrame, SurfacePixels, choose_stride, measure

__all__ = ["BLOCK", "GaussianMap", "IntegrateReport", "MapSnapshot"]

_ESTABLISHED = 2
"""Frames that measured a Gaussian from which on pixels beside its voxel join it."""


class GaussianMap:
    """Gaussians fused from frames, and the meaning that was found for them.

    Args:
        config: voxel size, ranges, limits.
        device: where the arrays live.
        feature_dim: width of the features kept with the Gaussians; 0 for geometry alone.

    Attributes:
        store: the arrays, by slot and block.
        lock: to be held around any call where several threads use the map.
        frames: integrated.
        stamp: of the last of them, nanoseconds.
    """

    def __init__(self, config: MapConfig, device: torch.device | str = "cpu", feature_dim: int = 0) -> None:
        self.config = config
        self.device = torch.device(device)
        self.lock = threading.RLock()
        self.store = BlockStore(config.voxel_size, config.max_gaussians, self.device, feature_dim)
        self._begin()

    def __getstate__(self) -> dict[str, Any]:
        """For copies, each of which has a lock of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = threading.RLock()

    def _begin(self) -> None:
        self.frames = 0
        self.stamp = 0
        self._scratch = torch.zeros(0, dtype=torch.int32, device=self.device)

    # ---- the public verbs -------------------------------------------------------------------------------------

    def integrate(self, frame: RgbdFrame) -> IntegrateReport:
        """Fuse a frame: measure the surface, give every voxel it touches a Gaussian, update it, carve free space."""
        on_device = DeviceFrame.upload(frame, self.device)
        stride = choose_stride(frame.depth, frame.intrinsics, self.config)
        pixels = measure(on_device, self.config, stride, phase=self.frames)
        self._next_frame(frame.stamp)
        slots, added, evicted, dropped = self._slots_of(pixels)
        touched = self._fuse(pixels, slots)
        carved = self._look_again(on_device, stride) if self.frames > 1 else 0
        return IntegrateReport(pixels.points.shape[0], touched, added, carved, evicted, dropped)

    def insert(self, gaussians: Gaussians, stamp: int = 0) -> None:
        """Take in Gaussians of another source as if they had been seen often; one per voxel survives."""
        pixels, evidence = from_gaussians(gaussians.to(self.device))
        self._next_frame(stamp)
        slots, *_ = self._slots_of(pixels)
        self._fuse(pixels, slots)
        kept = slots != NONE
        self.store.hits[slots[kept]] = max(self.config.min_hits, _ESTABLISHED)
        self.store.state[slots[kept], EVIDENCE] = evidence[kept]

    def clear(self) -> None:
        """Forget everything and begin another map, with an identity of its own."""
        self.store.clear()
        self._begin()

    def state(self) -> MapState:
        """All that it takes to go on with this map; the sure Gaussians come first, as :meth:`export` has them."""
        slots = self.store.occupied()
        sure = self.is_sure(slots)
        ordered = torch.cat((slots[sure], slots[~sure]))
        return read_store(self.store, ordered, int(sure.sum()), self.frames, self.stamp)

    def restore(self, state: MapState) -> Cursor:
        """Go on with a map that was left, in place of this one.

        Features that are not as wide as this map's are left out.

        Returns:
            What was encoded of it: changes since then wait to be encoded.

        Raises:
            MapStateError: it was made with another voxel size, or holds more than ``map.max_gaussians``.
        """
        if state.voxel_size != self.config.voxel_size:
            raise MapStateError(
                f"map.voxel_size = {self.config.voxel_size:g}: expected {state.voxel_size:g}, as the saved map has"
            )
        if (used := len(state.slots) + len(state.free_slots)) > self.config.max_gaussians:
            raise MapStateError(f"map.max_gaussians = {self.config.max_gaussians}: the saved map takes {used}")
        self.store.become(make_store(state, self.store))
        self._begin()
        self.frames, self.stamp = state.frames, state.stamp
        return Cursor(self.store.map_id, self.store.revision - 1)

    def reconfigure(self, config: MapConfig) -> None:
        """Go on with other limits; those of memory, and the voxel size, must be the same."""
        self.config = config
        self.store.advance()
        self.store.mark_all()

    def _next_frame(self, stamp: int) -> None:
        self.frames += 1
        self.stamp = stamp
        self.store.advance()
        if 1 < self.frames <= self.config.min_hits:
            self.store.mark_all()  # one more frame is now demanded of every Gaussian

    # ---- reading ----------------------------------------------------------------------------------------------

    @property
    def map_id(self) -> str:
        """UUID of this map; another one after :meth:`clear`."""
        return self.store.map_id

    def __len__(self) -> int:
        """Gaussians stored (also those not yet seen often enough to be handed out)."""
        return len(self.store)

    @property
    def cursor(self) -> Cursor:
        """Of a reader that knows the map as it is now."""
        return Cursor(self.store.map_id, self.store.revision)

    def changes_since(self, cursor: Cursor, what: What = "anything") -> Changes:
        """What a reader does not know yet; see :meth:`BlockStore.changes_since`."""
        return self.store.changes_since(cursor, what)

    def export(self, min_hits: int | None = None) -> MapSnapshot:
        """A copy of all Gaussians that are sure enough.

        Those that the configured share of the frames which should have measured them did, which tells depth noise from
        a surface however often it was looked at. With ``min_hits`` those seen in so many frames instead.
        """
        slots = torch.arange(self.store.used, device=self.device)
        if min_hits is None:
            return self._snapshot(slots[self.is_sure(slots)])
        hits = max(min(min_hits, self.frames), 1)  # a freed slot has none
        return self._snapshot(slots[self.store.hits[slots] >= hits])

    def export_blocks(self, blocks: Tensor) -> MapSnapshot:
        """The sure Gaussians of some blocks (ids [B]) as a copy."""
        slots = self.store.slots_in(blocks)
        return self._snapshot(slots[self.is_sure(slots)])

    def blocks_within(self, corners: Tensor) -> Tensor:
        """Ids of the blocks that overlap a rectangle in plan, given by its corners, metres [2, 2], int64 [B]."""
        low, high = corners.to(self.device)
        # A Gaussian may lie outside its own block: pixels join it from two voxels away.
        margin = self.store.block_edge / 2 + 2 * self.config.voxel_size
        low, high = low - margin, high + margin
        return self.store.blocks(lambda centers: ((centers[:, :2] >= low) & (centers[:, :2] <= high)).all(dim=1))

    def count_in(self, blocks: Tensor) -> int:
        """Gaussians stored in some blocks (ids [B])."""
        return int((self.store.slab[blocks] >= 0).sum())

    def is_sure(self, slots: Tensor) -> Tensor:
        """Which of some slots [N] are handed out, bool [N]; a freed one is not."""
        hits = self.store.hits[slots]
        enough = hits >= max(min(self.config.min_hits, self.frames), 1)
        return enough & (share_of(hits, self.store.missed[slots]) >= self.config.min_share)

    def touched(self) -> tuple[np.ndarray, np.ndarray]:
        """Packed keys [B] and centres, metres [B, 3], of the blocks that the last frame touched, on the host."""
        blocks = self.store.blocks()
        blocks = blocks[self.store.block_seen[blocks] == self.frames]
        return self.store.block_key[blocks].cpu().numpy(), self.store.block_centers(blocks).cpu().numpy()

    def points_in_view(self, frame: DeviceFrame) -> Tensor:
        """Centres of the Gaussians in view of a frame and in range, metres [N, 3]."""
        return self.store.state[self.store.slots_in(self._visible_blocks(frame)), MEAN]

    def still_there(self, slots: Tensor, births: Tensor) -> Tensor:
        """Which snapshot entries still name the same Gaussian, bool [N]."""
        return self.store.birth[slots] == births

    def _snapshot(self, slots: Tensor) -> MapSnapshot:
        gaussians = to_gaussians(self.store.state[slots], self.config.voxel_size)
        return MapSnapshot(gaussians, slots.clone(), self.store.birth[slots], self.stamp)

    # ---- meaning ----------------------------------------------------------------------------------------------

    def describe(
        self, slots: Tensor, births: Tensor, features: Tensor, labels: Tensor, confidence: Tensor, model_revision: int
    ) -> int:
        """Keep the meaning of Gaussians of a snapshot, those that are still there; how many that were.

        Args:
            slots, births: as in the snapshot [N].
            features: float16 [N, d].
            labels: integer [N].
            confidence: [N].
            model_revision: of the model that made the features.
        """
        store = self.store
        store.advance()
        there = self.still_there(slots, births)
        slots = slots[there]
        store.features[slots] = features[there]
        store.labels[slots] = labels[there].int()
        store.confidence[slots] = confidence[there]
        store.mark_features(slots, model_revision)
        return slots.numel()

    def relabel(self, slots: Tensor, labels: Tensor, confidence: Tensor) -> None:
        """Other labels, and the confidence in them, for the features of some slots [N]."""
        self.store.advance()
        self.store.labels[slots] = labels.int()
        self.store.confidence[slots] = confidence
        self.store.mark_labels(slots)

    def mark_encoded(self, corners: Tensor | None, revision: int) -> None:
        """The blocks in a rectangle in plan, metres [2, 2], or all, were encoded as they were at a revision."""
        if corners is None:
            blocks = self.store.blocks()
        else:
            half = self.store.block_edge / 2 - 1e-4
            low, high = corners.to(self.device)
            low, high = low + half, high - half
            blocks = self.store.blocks(lambda c: ((c[:, :2] >= low) & (c[:, :2] <= high)).all(dim=1))
        self.store.mark_encoded(blocks, revision)

    def forget_meaning(self) -> None:
        """Features and labels go, the geometry stays, and waits to be encoded."""
        self.store.advance()
        self.store.labels[:] = NONE
        self.store.mark_all()

    # ---- from pixels to slots ---------------------------------------------------------------------------------

    def _slots_of(self, pixels: SurfacePixels) -> tuple[Tensor, int, int, int]:
        """The slot of each pixel's voxel [P] (-1 where the map is full), and counts: added, evicted, dropped."""
        store = self.store
        keys, inside = store.locate(pixels.points)
        block_ids = store.make_blocks(keys)
        store.block_seen[block_ids] = self.frames
        cells = block_ids * CELLS + inside  # [P]

        slab = store.slab.view(-1)
        slots = slab[cells].long()
        fresh = (slots == NONE).nonzero().squeeze(1)  # pixels in voxels without a Gaussian
        known = self._same_surface(pixels, fresh)
        slots[fresh] = known
        store.block_seen[store.block_of(known[known != NONE])] = self.frames  # in use: not to be evicted by this frame
        fresh = fresh[known == NONE]
        if fresh.numel() == 0:
            return slots, 0, 0, 0
        # All pixels of a new voxel write their number into its cell; the one that stays speaks for the voxel.
        claims = (-2 - torch.arange(fresh.numel(), device=self.device)).int()
        slab[cells[fresh]] = claims
        winners = (slab[cells[fresh]] == claims).nonzero().squeeze(1)
        new_cells = cells[fresh[winners]]
        slab[new_cells] = NONE
        evicted = self._evict(new_cells.numel() - store.room) if new_cells.numel() > store.room else 0
        placed = store.take_slots(new_cells, self.stamp).numel()
        slots[fresh] = slab[cells[fresh]].long()
        return slots, placed, evicted, new_cells.numel() - placed

    def _same_surface(self, pixels: SurfacePixels, fresh: Tensor) -> Tensor:
        """For pixels in empty voxels, the established Gaussian just before or behind along the normal, if any [F].

        Depth noise exceeds a voxel a few metres away. Without this, every frame would add another sheet to the surface.
        """
        points, normals = pixels.points[fresh], pixels.normals[fresh]
        offsets = torch.tensor((-1.0, 1.0, -2.0, 2.0), device=self.device) * self.config.voxel_size  # nearest first
        around = (points[:, None] + normals[:, None] * offsets[:, None]).view(-1, 3)  # [F * 4, 3]
        slots = self.store.slots_at(around).view(-1, len(offsets))
        candidates = slots.clamp(min=0)
        alike = (self.store.state[candidates, NORMAL] * normals[:, None]).sum(dim=2) > 0.5
        fits = (slots >= 0) & alike & (self.store.hits[candidates] >= _ESTABLISHED)  # [F, 4]
        first = fits.int().argmax(dim=1, keepdim=True)
        return torch.where(fits.gather(1, first), slots.gather(1, first), NONE).squeeze(1)

    # ---- fusing, carving, evicting ----------------------------------------------------------------------------

    def _fuse(self, pixels: SurfacePixels, slots: Tensor) -> int:
        """Update the running means of every slot touched; returns how many were."""
        store = self.store
        kept = slots != NONE
        # Give the touched slots numbers 0..M-1 without sorting: the pixel whose number stays represents its slot.
        order = torch.arange(slots.numel(), device=self.device, dtype=torch.int32)
        last = store.capacity
        if self._scratch.shape[0] != last + 1:
            self._scratch = torch.zeros(last + 1, dtype=torch.int32, device=self.device)
        slots = torch.where(kept, slots, last)  # the last cell of the scratch takes what has no slot
        self._scratch[slots] = order
        touched = slots[(self._scratch[slots] == order) & kept]  # [M] unique
        if touched.numel() == 0:
            return 0
        self._scratch[last] = 0
        self._scratch[touched] = torch.arange(touched.numel(), device=self.device, dtype=torch.int32)
        group = self._scratch[slots].long()  # [P]
        weights = (pixels.weights * kept)[:, None]
        values = torch.cat((pixels.points, pixels.colors, pixels.normals, pixels.footprints[:, None]), dim=1)
        values = torch.cat((values * weights, weights), dim=1)  # [P, 11]
        sums = torch.zeros((touched.numel(), values.shape[1]), device=self.device).index_add_(0, group, values)

        # One frame counts as one observation, however many of its pixels fall into the voxel.
        observed = sums[:, :-1] / sums[:, -1:].clamp(min=1e-12)  # [M, 10]
        weight = (sums[:, -1:] * 4).clamp(0.02, 1.0)
        old = store.state[touched]
        means, old_weight, evidence = old[:, :WEIGHT], old[:, WEIGHT, None], old[:, EVIDENCE, None]
        means = means + weight / (old_weight + weight) * (observed - means)
        weight = (old_weight + weight).clamp(max=self.config.max_weight)
        store.state[touched] = torch.cat((means, weight, (evidence + 1.0).clamp(max=MAX_EVIDENCE)), dim=1)
        store.hits[touched] += 1
        store.last_hit[touched] = self.frames
        store.last_seen[touched] = self.stamp
        store.mark_geometry(touched)
        return touched.numel()

    def _look_again(self, frame: DeviceFrame, stride: int) -> int:
        """Hold what is known of the blocks in view against a frame; how many Gaussians it takes from the map.

        What the frame sees through loses evidence, and is removed when none is left. What it should have measured and
        did not has missed a frame. Only blocks in view are examined, a bounded number a frame, taking turns.
        """
        store = self.store
        blocks = self._visible_blocks(frame)
        if blocks.numel() == 0:
            return 0
        slots = store.slots_in(blocks)
        state = store.state[slots]
        found = carving.look(state[:, MEAN], state[:, NORMAL], frame, self.config, stride)
        expected = torch.where(store.last_hit[slots] == self.frames, 0.0, found.expected)
        sure = self.is_sure(slots)
        store.missed[slots] = (store.missed[slots] + expected).clamp(max=MEMORY)
        store.mark_geometry(slots[sure & ~self.is_sure(slots)])
        through = slots[found.through]
        if not self.config.carve or through.numel() == 0:
            return 0
        evidence = store.state[through, EVIDENCE] - 1.0
        store.state[through, EVIDENCE] = evidence
        gone = through[evidence <= 0]
        store.release(gone)
        return gone.numel()

    def _visible_blocks(self, frame: DeviceFrame) -> Tensor:
        """Ids of the blocks whose centre is in view, at most the carving budget's worth, int64 [B]."""
        visible = self.store.blocks(lambda centers: carving.in_view(centers, frame, self.config))
        limit = max(self.config.carve_budget // 64, 1)  # a block on a surface holds about 64 Gaussians
        turns = -(-visible.numel() // limit)
        return visible[(visible + self.frames) % turns == 0] if turns > 1 else visible

    def _evict(self, wanted: int) -> int:
        """Drop the least recently seen blocks until ``wanted`` slots, or a tenth of the map, are free."""
        store = self.store
        wanted = max(wanted, self.config.max_gaussians // 10)
        blocks = store.blocks()
        oldest_first = blocks[torch.argsort(store.block_seen[blocks])]
        oldest_first = oldest_first[store.block_seen[oldest_first] < self.frames]  # never what this frame sees
        counts = (store.slab[oldest_first] >= 0).sum(dim=1).cumsum(0)
        enough = int((counts < wanted).sum()) + 1
        return store.remove_blocks(oldest_first[:enough])
