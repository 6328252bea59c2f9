"""Space-filling curves against their defining properties and slow scalar twins."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.encoder.serialization import ORDERS, encode, grid_depth

ONE_SCENE = torch.zeros(1, dtype=torch.int64)


def cube(bits: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(1 << bits)] * 3)


def encode_one(grid: torch.Tensor, depth: int, order: str) -> torch.Tensor:
    return encode(grid, torch.zeros(len(grid), dtype=torch.int64), depth, order)


def morton_slowly(x: int, y: int, z: int, depth: int) -> int:
    bits = "".join(f"{(x >> b) & 1}{(y >> b) & 1}{(z >> b) & 1}" for b in reversed(range(depth)))
    return int(bits, 2)


def hilbert_slowly(point: tuple[int, int, int], depth: int) -> int:
    """Skilling 2004, AxestoTranspose, one point at a time with a mask that walks down the bits."""
    x = list(point)
    q = 1 << (depth - 1)
    while q:
        p = q - 1
        for i in range(3):
            if x[i] & q:
                x[0] ^= p
            else:
                t = (x[0] ^ x[i]) & p
                x[0] ^= t
                x[i] ^= t
        q >>= 1
    gray = morton_slowly(*x, depth)
    index = 0
    while gray:
        index ^= gray
        gray >>= 1
    return index


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_curve_visits_every_voxel_of_a_cube_once(order: str, bits: int) -> None:
    codes = encode_one(cube(bits), bits, order)
    assert torch.equal(codes.sort().values, torch.arange(8**bits))


@pytest.mark.parametrize("order", ["hilbert", "hilbert-trans"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5])
def test_steps_along_a_hilbert_curve_go_to_a_face_neighbour(order: str, bits: int) -> None:
    grid = cube(bits)
    walked = grid[encode_one(grid, bits, order).argsort()]
    assert (walked.diff(dim=0).abs().sum(dim=1) == 1).all()


@pytest.mark.parametrize("order", ORDERS)
def test_every_aligned_subcube_is_visited_in_one_go(order: str) -> None:
    grid = cube(4)
    codes = encode_one(grid, 4, order)
    for size in (2, 4, 8):
        subcube = ((grid // size) * torch.tensor((256, 16, 1))).sum(dim=1)
        for which in subcube.unique():
            inside = codes[subcube == which]
            assert inside.max() - inside.min() + 1 == size**3


point = st.tuples(*[st.integers(0, 2**15 - 2)] * 3)


@given(st.lists(point, min_size=1, max_size=30))
def test_codes_are_those_of_the_slow_twins(points: list[tuple[int, int, int]]) -> None:
    grid = torch.tensor(points)
    depth = grid_depth(grid.amax(dim=0) + 1)
    assert depth == (max(map(max, points)) + 1).bit_length()
    assert encode_one(grid, depth, "z").tolist() == [morton_slowly(*p, depth) for p in points]
    assert encode_one(grid, depth, "z-trans").tolist() == [morton_slowly(y, x, z, depth) for x, y, z in points]
    assert encode_one(grid, depth, "hilbert").tolist() == [hilbert_slowly(p, depth) for p in points]
    assert encode_one(grid, depth, "hilbert-trans").tolist() == [hilbert_slowly((y, x, z), depth) for x, y, z in points]


@pytest.mark.parametrize("order", ORDERS)
def test_scenes_follow_each_other(order: str) -> None:
    grid = torch.randint(0, 2**15, (3000, 3), generator=torch.Generator().manual_seed(0))
    batch = torch.arange(3000) // 1000
    order_of = encode(grid, batch, grid_depth(grid.amax(dim=0) + 1), order).argsort()
    assert (batch[order_of].diff() >= 0).all()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="'spiral'"):
        encode(torch.zeros(1, 3), ONE_SCENE, 1, "spiral")
    with pytest.raises(ValueError, match="65537 voxels along an axis: expected 65535 at most"):
        grid_depth((1, 65537, 1))
