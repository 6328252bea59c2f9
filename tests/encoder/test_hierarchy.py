"""Levels and patches: every voxel once, scenes apart."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.encoder.hierarchy import build_hierarchy
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.encoder.serialization import ORDERS, encode, grid_depth

ALL = (0, 1, 2, 3)


def random_grid(seed: int, size: int, extent: int = 24) -> torch.Tensor:
    """Distinct voxels with minimum 0 and the far corner occupied, so that all grids of an extent have one depth."""
    rng = torch.Generator().manual_seed(seed)
    cells = torch.randperm(extent**3 - 2, generator=rng)[: max(size - 2, 0)] + 1
    cells = torch.cat((torch.tensor([0, extent**3 - 1])[:size], cells))
    return torch.stack((cells // extent**2, cells // extent % extent, cells % extent), dim=1)


sizes_of_scenes = st.lists(st.integers(1, 90), min_size=1, max_size=5)


@given(sizes_of_scenes, st.integers(2, 33))
@settings(max_examples=60, deadline=None)
def test_every_voxel_is_in_one_patch_of_its_scene_and_comes_back(sizes: list[int], patch_size: int) -> None:
    grid = torch.cat([random_grid(i, size) for i, size in enumerate(sizes)])
    offset = torch.tensor(sizes).cumsum(0)
    (level,) = build_hierarchy(grid, offset, [ALL], patch_size)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    depth = grid_depth(level.extent)
    for patches, order in zip(level.patches, ORDERS, strict=True):
        slots = torch.cat((patches.full.flatten(), patches.short.flatten()))
        assert torch.equal(slots[patches.back], torch.arange(len(grid))), "back finds each voxel's own slot"
        assert len(patches.back.unique()) == len(grid)
        assert (batch[patches.full].amin(1) == batch[patches.full].amax(1)).all() if patches.full.numel() else True
        codes = encode(grid, batch, depth, order)

        # The full patches of a scene, by the rule in words.
        expected, short = [], []
        for scene, size in enumerate(sizes):
            walk = torch.argsort(codes + (batch != scene) * (1 << 60))[:size].tolist()
            if size < patch_size:
                short.append(walk)
                continue
            rest = size % patch_size
            cut = [walk[i : i + patch_size] for i in range(0, size, patch_size)]
            if rest:
                cut[-1] = cut[-1] + cut[-2][rest:]
            expected += cut
        assert patches.full.tolist() == expected
        masks = torch.ones_like(patches.short, dtype=torch.bool) if patches.short_mask is None else patches.short_mask
        assert (patches.short_mask is None) == (len({len(walk) for walk in short}) < 2)
        assert [row[mask].tolist() for row, mask in zip(patches.short, masks, strict=True)] == short
        assert all((row[~mask] == row[0]).all() for row, mask in zip(patches.short, masks, strict=True))


@given(st.lists(st.tuples(*[st.integers(0, 70)] * 3), min_size=1, max_size=20))
def test_extents_hold_every_level_and_no_more(cells: list[tuple[int, int, int]]) -> None:
    grid = torch.tensor(sorted(set(cells)))
    grid = grid - grid.amin(dim=0)
    for level in build_hierarchy(grid, torch.tensor([len(grid)]), [()] * 4, 8):
        assert list(level.extent) == (level.grid.amax(dim=0) + 1).tolist()
        assert level.scenes == 1


def test_each_level_halves_the_one_before() -> None:
    grid = torch.cat((random_grid(0, 500), random_grid(1, 300)))
    levels = build_hierarchy(grid, torch.tensor([500, 800]), [ALL] * 4, 64)
    for fine, coarse in itertools.pairwise(levels):
        assert torch.equal(coarse.grid[coarse.cell_of_finer], fine.grid // 2)
        assert torch.equal(coarse.batch[coarse.cell_of_finer], fine.batch)
        named = torch.cat((coarse.batch[:, None], coarse.grid), dim=1)
        assert len(named.unique(dim=0)) == len(named)
        assert (coarse.batch.diff() >= 0).all()
        assert len(coarse.cell_of_finer.unique()) == len(coarse), "no empty cells"


TINY = ModelConfig(
    enc_channels=(8, 16, 24),
    enc_depths=(2, 1, 4),
    enc_num_head=(2, 2, 4),
    patch_size=48,
    heads={"lang": 12},
    head_ratio=1,
)


@pytest.mark.parametrize("sizes", [(300, 200), (30, 400), (1, 20), (48, 96), (97, 3)])
@torch.no_grad()
def test_scenes_in_a_batch_do_not_see_each_other(sizes: tuple[int, int]) -> None:
    """Up to rounding. (The curves' depth is the batch's, as in the release: the scenes here have the same extent.)"""
    torch.manual_seed(0)
    model = ChorusModel(TINY).eval()
    grids = [random_grid(i, max(size, 2))[-size:] for i, size in enumerate(sizes)]
    feats = [torch.randn(size, 11) for size in sizes]
    together = model(torch.cat(feats), model.hierarchy(torch.cat(grids), torch.tensor(sizes).cumsum(0)))
    for grid, feat, part in zip(grids, feats, together.split(sizes), strict=True):
        alone = model(feat, model.hierarchy(grid, torch.tensor([len(grid)])))
        assert torch.allclose(part, alone, atol=1e-4)


@torch.no_grad()
def test_the_order_of_voxels_does_not_matter() -> None:
    """Where no curve has ties, shuffling the input shuffles the output."""
    torch.manual_seed(0)
    model = ChorusModel(TINY).eval()
    grid, feat, shuffle = random_grid(0, 500), torch.randn(500, 11), torch.randperm(500)
    offset = torch.tensor([500])
    plain = model(feat, model.hierarchy(grid, offset))
    shuffled = model(feat[shuffle], model.hierarchy(grid[shuffle], offset))
    assert torch.allclose(plain[shuffle], shuffled, atol=1e-4)


def test_shuffled_curves_are_drawn_from_the_seed() -> None:
    config = ModelConfig.from_dict({**TINY.to_dict(), "shuffle_orders": True, "unknown_key": 3})
    model, grid = ChorusModel(config), random_grid(0, 200)

    def cuts(seed: int) -> list[list[int]]:
        levels = model.hierarchy(grid, torch.tensor([200]), seed=seed)
        return [patches.back.tolist() for level in levels for patches in level.patches]

    assert cuts(1) == cuts(1)
    assert any(cuts(1) != cuts(seed) for seed in range(2, 6))


BAD = [
    (torch.zeros(0, 3), [0], "expected \\(N, 3\\)"),
    (torch.zeros(4, 2), [4], "\\(4, 2\\)"),
    (torch.zeros(4, 3), [5], "offset ends at 5 but the grid holds 4"),
    (torch.tensor([[0, 0, -1]]), [1], "coordinate -1"),
    (torch.tensor([[0, 0, 70_000]]), [1], "70001 voxels along an axis: expected 65535"),
]


@pytest.mark.parametrize(("grid", "offset", "message"), BAD)
def test_bad_grids_are_named(grid: torch.Tensor, offset: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_hierarchy(grid, torch.tensor(offset), [ALL], 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"enc_depths": (1, 1)}, "same, positive length"), ({"enc_num_head": (3, 2, 4)}, "3 does not divide")],
)
def test_bad_architectures_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**TINY.to_dict(), **change})
