"""The geometry of an encoder pass: voxels at every stage, which cell a voxel joins, and how attention is patched.

It depends on where the voxels are and on nothing learned, so it is computed once and shared by all blocks of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chorus_core.encoder.serialization import ORDERS, encode, grid_depth


@dataclass
class Patches:
    """How one curve cuts a level's voxels into attention patches.

    Attributes:
        full: voxels of complete patches [F, K].
        short: voxels of the one patch of each scene smaller than K [S, L], padded with its first voxel.
        short_mask: which entries of ``short`` are real, bool [S, L]; None where all are.
        back: for each voxel its position in the patches laid end to end (full ones first) [N].
    """

    full: Tensor
    short: Tensor
    short_mask: Tensor | None
    back: Tensor


@dataclass
class Level:
    """The voxels of one stage.

    Attributes:
        grid: non-negative integer coordinates, int64 [N, 3].
        batch: scene of each voxel, ascending, int64 [N].
        cell_of_finer: for each voxel of the finer level the voxel it joins here, [N_finer]; None at stage 0.
        patches: one cut for each curve that the stage's blocks use.
        scenes: how many there are; this and the next are numbers of the host, so that no pass waits for a GPU to say.
        extent: cells along each axis that hold all voxels.
        conv_cache: what the sparse convolution derives from the grid once for all blocks.
    """

    grid: Tensor
    batch: Tensor
    cell_of_finer: Tensor | None
    patches: list[Patches]
    scenes: int
    extent: tuple[int, int, int]
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
    if int(offset[-1]) != grid.shape[0]:
        raise ValueError(f"offset ends at {int(offset[-1])} but the grid holds {grid.shape[0]} voxels")
    if int(grid.min()) < 0:
        raise ValueError(f"grid has a coordinate {int(grid.min())}: expected non-negative ones")
    grid = grid.long()
    sizes = torch.diff(offset.to(grid.device), prepend=offset.new_zeros(1).to(grid.device))
    batch = torch.repeat_interleave(torch.arange(offset.numel(), device=grid.device), sizes)
    extent = [int(top) + 1 for top in grid.amax(dim=0).tolist()]
    levels: list[Level] = []
    cell_of_finer: Tensor | None = None
    for stage, stage_curves in enumerate(curves):
        if stage:
            grid, batch, cell_of_finer = _halve(grid, batch)
            extent = [(cells + 1) // 2 for cells in extent]
        depth = grid_depth(extent)
        scene_sizes = torch.bincount(batch, minlength=offset.numel()).tolist()
        patches = [
            _cut(torch.argsort(encode(grid, batch, depth, ORDERS[curve])), scene_sizes, patch_size)
            for curve in stage_curves
        ]
        levels.append(Level(grid, batch, cell_of_finer, patches, offset.numel(), tuple(extent)))
    return levels


def _halve(grid: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The occupied cells of twice the size in order of (scene, x, y, z), and the cell of each voxel."""
    half = grid // 2
    keys = (((batch << 16 | half[:, 0]) << 16) | half[:, 1]) << 16 | half[:, 2]
    cells, cell_of_finer = torch.unique(keys, return_inverse=True)
    mask = (1 << 16) - 1
    coords = torch.stack(((cells >> 32) & mask, (cells >> 16) & mask, cells & mask), dim=1)
    return coords, cells >> 48, cell_of_finer


def _cut(order: Tensor, scene_sizes: Sequence[int], patch_size: int) -> Patches:
    """Cut voxels in curve order [N] into patches, each scene on its own.

    A scene larger than a patch fills the missing slots of its last patch with the voxels at the same slots of the
    patch before; what attention says of those repeats is dropped. A smaller scene is one patch of its own size.
    """
    device = order.device
    full: list[Tensor] = []  # positions along the curve
    short: list[Tensor] = []
    start = 0
    for size in scene_sizes:
        scene = torch.arange(start, start + size, device=device)
        rest = size % patch_size
        if size >= patch_size:
            full += [scene, scene[size - patch_size : size - rest]] if rest else [scene]
        elif size:
            short.append(scene)
        start += size

    longest = max((part.numel() for part in short), default=0)
    mask = torch.zeros((len(short), longest), dtype=torch.bool, device=device)
    padded = torch.zeros((len(short), longest), dtype=torch.int64, device=device)
    for row, part in enumerate(short):
        mask[row, : part.numel()] = True
        padded[row] = part[0]
        padded[row, : part.numel()] = part

    full_positions = torch.cat(full) if full else order.new_empty(0)
    slots = torch.cat((full_positions, padded.flatten()))
    # A voxel that fills a gap stands in two slots; its own is the first.
    slot_of_position = torch.empty_like(order)
    numbers = torch.arange(slots.numel(), device=device)
    slot_of_position.scatter_reduce_(0, slots, numbers, "amin", include_self=False)
    back = torch.empty_like(order)
    back[order] = slot_of_position
    ragged = any(part.numel() < longest for part in short)
    return Patches(order[full_positions].view(-1, patch_size), order[padded], mask if ragged else None, back)
