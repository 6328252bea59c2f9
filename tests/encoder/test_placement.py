"""Which rows of an output each voxel fills."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.encoder.placement import Placement, place
from chorus_core.encoder.pyramid import Pyramid, part_size


@given(st.integers(0, 10_000), st.integers(1, 500))
def test_parts_are_equal_and_small_enough(count: int, most: int) -> None:
    size = part_size(count, most)
    parts = -(-count // size)
    assert 1 <= size <= most
    assert parts == -(-count // most), "as few as can be"
    assert parts < 2 or size - (count - size * (parts - 1)) < parts, "the last is smaller by less than one of each"


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 20), st.booleans(), st.integers(0, 100))
def test_every_point_gets_its_voxels_feature(of_point: list[int], size: int, unit: bool, seed: int) -> None:
    """Several points in a voxel, voxels without any, points that are not asked for."""
    torch.manual_seed(seed)
    features, coarse = torch.randn(31, 4), torch.randn(8, 2)
    pyramid = Pyramid([features, coarse], [torch.arange(31) // 4])
    voxel_of_point = torch.tensor(of_point, dtype=torch.int64)
    rows = torch.randperm(len(of_point) + 5)[: len(of_point)]
    out = torch.full((len(of_point) + 5, 4), -9.0).half()
    covered = 0
    for part in Placement(voxel_of_point, rows).parts(pyramid, size):
        assert len(part.voxels.voxels) <= size
        (first, end) = part.voxels.spans[0]
        cells = pyramid.cells[0][part.voxels.voxels]
        assert (int(cells.min()), int(cells.max()) + 1) == (first, end)
        found = features[part.voxels.voxels]
        place(out, part.rows, found, part.chosen, found.norm(dim=1) if unit else None)
        covered += len(part.rows)
    assert covered == len(of_point)
    expected = features[voxel_of_point]
    if unit:
        expected = torch.nn.functional.normalize(expected, dim=1)
    assert torch.equal(out[rows], expected.half()) or torch.allclose(out[rows].float(), expected, atol=2e-3)
    untouched = torch.ones(len(out), dtype=torch.bool)
    untouched[rows] = False
    assert bool((out[untouched] == -9.0).all())
