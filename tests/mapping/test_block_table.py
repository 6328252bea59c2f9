"""The hash table of blocks against a Python dict."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.mapping.block_table import BlockTable, pack, unpack

CPU = torch.device("cpu")
coordinate = st.integers(-(1 << 20), (1 << 20) - 1)
coordinates = st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=1, max_size=50)


@given(coordinates)
def test_pack_and_unpack_are_inverse(coords: list[tuple[int, int, int]]) -> None:
    tensor = torch.tensor(coords)
    keys = pack(tensor)
    assert torch.equal(unpack(keys), tensor)
    assert len(set(keys.tolist())) == len(set(coords))
    assert (keys >= 0).all()


@given(
    st.lists(st.tuples(st.sampled_from(["insert", "remove"]), st.lists(st.integers(0, 40), max_size=20)), max_size=25)
)
@settings(max_examples=150, deadline=None)
def test_agrees_with_a_dict_under_any_sequence_of_changes(steps: list[tuple[str, list[int]]]) -> None:
    table, expected = BlockTable(CPU, capacity=16), {}
    next_id = 0
    universe = pack(torch.tensor([(i, -i, 3 * i) for i in range(41)]))
    for verb, places in steps:
        keys = [int(universe[i]) for i in dict.fromkeys(places)]
        if verb == "insert":
            fresh = [k for k in keys if k not in expected]
            ids = list(range(next_id, next_id + len(fresh)))
            next_id += len(fresh)
            expected.update(zip(fresh, ids, strict=True))
            table.insert(torch.tensor(fresh, dtype=torch.int64), torch.tensor(ids, dtype=torch.int64))
        else:
            for key in keys:
                expected.pop(key, None)
            table.remove(torch.tensor(keys, dtype=torch.int64))
        assert table.find(universe).tolist() == [expected.get(k, -1) for k in universe.tolist()]


@pytest.mark.parametrize("seed", range(3))
def test_many_neighbouring_blocks(seed: int) -> None:
    """Half of a dense cube of blocks inserted, part of it removed, the rest inserted: as a building would."""
    rng = torch.Generator().manual_seed(seed)
    cube = torch.cartesian_prod(*[torch.arange(-16, 16)] * 3)
    cube = cube[torch.randperm(len(cube), generator=rng)]
    keys, ids = pack(cube), torch.arange(len(cube))
    table = BlockTable(CPU, capacity=64)
    half, quarter = len(keys) // 2, len(keys) // 4
    table.insert(keys[:half], ids[:half])
    table.remove(keys[:quarter])
    table.insert(keys[half:], ids[half:])
    expected = ids.clone()
    expected[:quarter] = -1
    assert torch.equal(table.find(keys), expected)
