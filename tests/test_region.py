"""Which part of the map is encoded next."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.config import Config, parse
from chorus_core.region import RegionScheduler

SMALL = parse(Config, {"encoder.max_gaussians": 1000, "encoder.halo": 0.5}).encoder


def scatter(count: int, extent: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3), generator=generator) * extent - extent / 2


def test_small_map_is_encoded_whole() -> None:
    means = scatter(500, 20.0, 0)
    region = RegionScheduler(SMALL).next_region(means[:3], means)
    assert region is not None
    assert bool(region.owned.all())
    assert torch.equal(region.context, torch.arange(500))


def test_nothing_changed_means_nothing_to_do() -> None:
    means = scatter(500, 20.0, 0)
    assert RegionScheduler(SMALL).next_region(means[:0], means) is None


@given(st.integers(1500, 4000), st.floats(5.0, 30.0), st.integers(0, 100))
def test_every_changed_gaussian_of_a_large_map_is_owned_once(count: int, extent: float, seed: int) -> None:
    means = scatter(count, extent, seed)
    scheduler = RegionScheduler(SMALL)
    owners = torch.zeros(count, dtype=torch.int64)
    changed = means
    while (region := scheduler.next_region(changed, means)) is not None:
        changed = means[:0]
        owners[region.owned_indices] += 1
        plane = means[region.owned_indices, :2]
        near = means[region.context, :2]
        assert bool((near.amin(0) >= plane.amin(0) - 4.0 - 0.5).all()), "context stays within column and halo"
    assert bool((owners == 1).all())


def test_the_column_that_changed_most_goes_first_and_a_failed_one_comes_back() -> None:
    means = scatter(3000, 16.0, 1)
    scheduler = RegionScheduler(SMALL)
    dirty = torch.tensor([[1.0, 1.0, 0.0]] * 5 + [[-3.0, -3.0, 0.0]] * 2)
    first = scheduler.next_region(dirty, means)
    assert first is not None
    assert list(first.changes) == [(0, 0)]
    scheduler.put_back(first)
    again = scheduler.next_region(dirty[:0], means)
    assert again is not None
    assert again.changes == first.changes
