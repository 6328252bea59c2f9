"""The geometry of an encoder pass: voxels at every stage, which cell a voxel joins, and how attention is patched.

It depends on where the voxels are and on nothing learned, so it is computed once and shared by all blocks of a stage.
Voxels of the coarser stages follow each other along Morton's curve, so those of one cell are neighbours in memory. The
host waits for the device twice, whatever the number of stages: for the extent of the grid, and for the number of cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chorus_core.encoder.serialization import ORDERS, Walks, encode, grid_depth, walk

_MORTON = ORDERS.index("z")


@dataclass
class Patches:
    """How one curve cuts a level's voxels into attention patches.

    Attributes:
        slots: voxels of all patches laid end to end: the complete ones of K voxels each, then the short ones.
        back: for each voxel its own slot [N].
        full_count: complete patches, F.
        size: voxels of a complete patch, K.
        short_count: scenes smaller than a patch, S: one patch each, padded with its first voxel.
        short_size: voxels of the largest of these, L.
        short_mask: which entries of the short ones are real, bool [S, L]; None where all are.
    """

    slots: Tensor
    back: Tensor
    full_count: int
    size: int
    short_count: int
    short_size: int
    short_mask: Tensor | None

    @property
    def full_slots(self) -> int:
        """Slots of the complete patches: F * K."""
        return self.full_count * self.size

    @property
    def full(self) -> Tensor:
        """Voxels of the complete patches [F, K]."""
        return self.slots[: self.full_slots].view(self.full_count, self.size)

    @property
    def short(self) -> Tensor:
        """Voxels of the short patches [S, L]."""
        return self.slots[self.full_slots :].view(self.short_count, self.short_size)


@dataclass
class Level:
    """The voxels of one stage.

    Attributes:
        grid: non-negative integer coordinates, int64 [N, 3].
        batch: scene of each voxel, ascending, int64 [N].
        cell_of_finer: for each voxel of the finer level the voxel it joins here, [N_finer]; None at stage 0. Ascending
            where the finer voxels follow each other along Morton's curve, as they do from stage 1 on.
        patches: one cut for each curve that the stage's blocks use.
        scenes: how many there are; this and the next are numbers of the host, so that no pass waits for a GPU to say.
        extent: cells along each axis that hold all voxels.
        codes: places along Morton's curve, the scene in front, ascending, int64 [N].
        code_depth: bits an axis of these; one less than at the finer stage, and perhaps less than the extent takes.
        order: the voxel at each of these places [N]; None where voxels are in that order, as they are from stage 1 on.
        conv_cache: what the sparse convolution derives from the grid once for all blocks.
    """

    grid: Tensor
    batch: Tensor
    cell_of_finer: Tensor | None
    patches: list[Patches]
    scenes: int
    extent: tuple[int, int, int]
    codes: Tensor
    code_depth: int
    order: Tensor | None
    conv_cache: dict[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.grid.shape[0]


def build_hierarchy(grid: Tensor, offset: Tensor, curves: Sequence[Sequence[int]], patch_size: int) -> list[Level]:
    """Levels of an encoder pass, finest first.

    Args:
        grid: integer coordinates of occupied voxels, one point each, minimum 0, scene after scene [N, 3].
        offset: cumulative scene sizes [B].
        curves: for each stage the curves (indices into ``ORDERS``) that its blocks take turns with; each stage halves
            the grid of the one before.
        patch_size: points of an attention patch (K).

    Raises:
        ValueError: the grid is empty, negative, too large, or its size disagrees with ``offset``.
    """
    if grid.ndim != 2 or grid.shape[1] != 3 or grid.shape[0] == 0:
        raise ValueError(f"grid of shape {tuple(grid.shape)}: expected (N, 3) with N > 0")
    grid, ends = grid.long(), offset.tolist()
    low, high = torch.stack((grid.amin(dim=0), grid.amax(dim=0))).tolist()
    if ends[-1] != grid.shape[0]:
        raise ValueError(f"offset ends at {ends[-1]} but the grid holds {grid.shape[0]} voxels")
    if min(low) < 0:
        raise ValueError(f"grid has a coordinate {min(low)}: expected non-negative ones")
    extents = [tuple(top + 1 for top in high)]
    for _ in curves[1:]:
        extents.append(tuple((cells + 1) // 2 for cells in extents[-1]))

    batch = _scene_of_voxel(ends, grid.device)
    depth = grid_depth(extents[0])
    codes, order = torch.sort(encode(grid, batch, depth, ORDERS[_MORTON]))
    cells, sizes = _count_cells(codes, ends, len(curves))
    bare: list[Level] = []
    cell_of_finer: Tensor | None = None
    for stage, extent in enumerate(extents):
        if stage:
            cell_of_finer = _cells_of_finer(cells, stage, order, len(grid))
            finer = cell_of_finer if stage > 1 else cells[0]  # of voxels in the order of the codes
            codes = codes.new_empty(sum(sizes[stage])).scatter_(0, finer, codes >> 3)
            grid = _gather_coarser(grid, cell_of_finer, len(codes))
            batch = batch.new_empty(len(codes)).scatter_(0, cell_of_finer, batch)
        along = None if stage else order
        bare.append(Level(grid, batch, cell_of_finer, [], len(ends), extent, codes, depth - stage, along))
    return _with_patches(bare, sizes, curves, patch_size)


def _with_patches(
    levels: list[Level], sizes: Sequence[Sequence[int]], curves: Sequence[Sequence[int]], patch_size: int
) -> list[Level]:
    """Levels cut into patches along their curves."""
    others = [tuple(ORDERS[curve] for curve in chosen if curve != _MORTON) for chosen in curves]
    walks = walk(
        [
            Walks(level.grid, level.batch, grid_depth(level.extent), orders)
            for level, orders in zip(levels, others, strict=True)
        ],
        levels[0].scenes,
    )
    for level, chosen, scene_sizes, found in zip(levels, curves, sizes, walks, strict=True):
        if not chosen:
            continue
        cut, rest = _Cut(scene_sizes, patch_size, level.grid.device), iter(found)
        along_morton = level.order
        if along_morton is None:
            along_morton = torch.arange(len(level), device=level.grid.device)
        level.patches += [cut(along_morton if curve == _MORTON else next(rest)) for curve in chosen]
    return levels


def _scene_of_voxel(ends: Sequence[int], device: torch.device) -> Tensor:
    """Scene of each voxel, int64 [N], from the cumulative sizes of the scenes."""
    if len(ends) == 1:
        return torch.zeros(ends[0], dtype=torch.int64, device=device)
    sizes = [end - start for start, end in zip((0, *ends), ends, strict=False)]
    return torch.repeat_interleave(torch.arange(len(ends)), torch.tensor(sizes)).to(device)


def _count_cells(codes: Tensor, ends: Sequence[int], stages: int) -> tuple[list[Tensor], list[list[int]]]:
    """The cell of each voxel at every stage after the first, and the cells of each scene at every stage.

    Args:
        codes: Morton's, with the scene in front, ascending [N].
        ends: cumulative sizes of the scenes.

    Returns:
        For each stage from 1 on the cell of each voxel in the order of the codes [N]; sizes by stage and scene.
    """
    if stages == 1:
        return [], [[end - start for start, end in zip((0, *ends), ends, strict=False)]]
    parents = codes >> 3 * torch.arange(1, stages, device=codes.device)[:, None]  # [stages - 1, N]
    begins = torch.ones_like(parents)
    torch.ne(parents[:, 1:], parents[:, :-1], out=begins[:, 1:])
    cells = begins.cumsum(1).sub_(1)
    at = torch.tensor(ends)
    done = (cells[:, (at - 1).clamp(min=0).to(codes.device)] + 1).tolist()  # cells of the scenes up to each
    done = [[cell if end else 0 for cell, end in zip(row, ends, strict=True)] for row in done]
    sizes = [[end - start for start, end in zip((0, *row), row, strict=False)] for row in (list(ends), *done)]
    return list(cells.unbind(0)), sizes


def _cells_of_finer(cells: Sequence[Tensor], stage: int, order: Tensor, count: int) -> Tensor:
    """For each voxel of the stage before, the cell it joins at this stage.

    Args:
        cells: of :func:`_count_cells`.
        order: finest voxels in the order of those cells [N].
        count: voxels of the stage before.
    """
    if stage == 1:
        return torch.empty_like(cells[0]).scatter_(0, order, cells[0])
    return torch.empty_like(cells[0][:count]).scatter_(0, cells[stage - 2], cells[stage - 1])


def _gather_coarser(grid: Tensor, cell_of_finer: Tensor, count: int) -> Tensor:
    """Coordinates of the cells [M, 3] that voxels [N, 3] join; voxels of one cell agree on them."""
    coarser = grid.new_empty((count, 3))
    return coarser.scatter_(0, cell_of_finer[:, None].expand(-1, 3), grid >> 1)


class _Cut:
    """Cuts voxels in curve order into patches, each scene on its own; the same for all curves of a level.

    A scene larger than a patch fills the missing slots of its last patch with the voxels at the same slots of the
    patch before; what attention says of those repeats is dropped. A smaller scene is one patch of its own size.

    Args:
        scene_sizes: voxels of each scene.
        patch_size: voxels of a patch.
        device: of the voxels.
    """

    def __init__(self, scene_sizes: Sequence[int], patch_size: int, device: torch.device) -> None:
        shorts = [size for size in scene_sizes if 0 < size < patch_size]
        self._size, self._shorts, self._longest = patch_size, len(shorts), max(shorts, default=0)
        self._full_slots = sum(-(-size // patch_size) * patch_size for size in scene_sizes if size >= patch_size)
        full, short, own = [], [], []  # spans of positions along the curve; of each position's own slot
        start = next_full = 0
        next_short = self._full_slots
        for size in scene_sizes:
            rest = size % patch_size
            if size >= patch_size:
                full.append((start, start + size))
                own.append((next_full, next_full + size))
                next_full += size
                if rest:
                    full.append((start + size - patch_size, start + size - rest))
                    next_full += patch_size - rest
            elif size:
                short.append((start, start + size))
                own.append((next_short, next_short + size))
                next_short += self._longest
            start += size

        positions = [torch.arange(first, end, device=device) for first, end in full]
        self._mask: Tensor | None = None
        if short:
            numbers = torch.arange(self._longest, device=device)
            first, end = torch.tensor(short, device=device).T[:, :, None]
            inside = first + numbers < end
            positions.append(torch.where(inside, first + numbers, first).flatten())
            self._mask = inside if min(shorts) < self._longest else None
        self._position = torch.cat(positions)  # along the curve, of each slot
        self._own_slot = torch.cat([torch.arange(first, end, device=device) for first, end in own])

    def __call__(self, order: Tensor) -> Patches:
        """The patches of voxels in the order of a curve [N]."""
        back = torch.empty_like(order).scatter_(0, order, self._own_slot)
        full_count = self._full_slots // self._size
        slots = order.index_select(0, self._position)
        return Patches(slots, back, full_count, self._size, self._shorts, self._longest, self._mask)
