"""Which part of the map is encoded next."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.config import Config, parse
from chorus_core.region import Region, RegionScheduler

SMALL = parse(Config, {"encoder.max_gaussians": 1000, "encoder.halo": 0.5, "encoder.min_context": 0}).encoder


class Points:
    """A map of bare points, as the scheduler sees it."""

    def __init__(self, means: torch.Tensor) -> None:
        self.means = means

    def count(self, corners: torch.Tensor) -> int:
        return int(self.within(corners).sum())

    def within(self, corners: torch.Tensor) -> torch.Tensor:
        plane = self.means[:, :2]
        return ((plane >= corners[0]) & (plane <= corners[1])).all(dim=1)

    def next(self, scheduler: RegionScheduler) -> Region | None:
        return scheduler.next(len(self.means), self.count)

    def context(self, region: Region) -> torch.Tensor:
        return region.reads(self.means).nonzero().squeeze(1)

    def owned(self, region: Region) -> torch.Tensor:
        return region.owns(self.means).nonzero().squeeze(1)


def scatter(count: int, extent: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3), generator=generator) * extent - extent / 2


def test_small_map_is_encoded_whole() -> None:
    means = scatter(500, 20.0, 0)
    scheduler = RegionScheduler(SMALL)
    scheduler.add(means[:3])
    region = Points(means).next(scheduler)
    assert region is not None
    assert bool(region.owns(means).all())
    assert torch.equal(Points(means).context(region), torch.arange(500))


def test_nothing_changed_means_nothing_to_do() -> None:
    means = scatter(500, 20.0, 0)
    scheduler = RegionScheduler(SMALL)
    scheduler.add(means[:0])
    assert not scheduler.pending
    assert Points(means).next(scheduler) is None


@given(st.integers(1500, 4000), st.floats(5.0, 30.0), st.integers(0, 100))
@settings(deadline=None)
def test_every_changed_gaussian_of_a_large_map_is_owned(count: int, extent: float, seed: int) -> None:
    means = scatter(count, extent, seed)
    scheduler = RegionScheduler(SMALL)
    owners = torch.zeros(count, dtype=torch.int64)
    scheduler.add(means)
    while (region := Points(means).next(scheduler)) is not None:
        owners[Points(means).owned(region)] += 1
        columns = torch.tensor(list(region.changes)) * 4.0
        near = means[Points(means).context(region), :2]
        low, high = columns.amin(0) - 0.63, columns.amax(0) + 4.63
        assert bool(((near >= low) & (near <= high)).all()), "context stays within columns, margin and halo"
    assert bool((owners >= 1).all())


@given(st.integers(0, 1000), st.floats(0.05, 0.9))
@settings(deadline=None)
def test_whole_blocks_are_owned_even_without_a_halo(seed: int, edge: float) -> None:
    means = scatter(3000, 16.0, seed)
    scheduler = RegionScheduler(
        parse(Config, {"encoder.max_gaussians": 1000, "encoder.halo": 0.0, "encoder.min_context": 0}).encoder
    )
    blocks = torch.floor(means / edge)
    changed = (blocks[:, :2] == blocks[:1, :2]).all(dim=1)
    scheduler.add((blocks[changed] + 0.5) * edge, edge)
    owned = [Points(means).owned(region) for region in iter(lambda: Points(means).next(scheduler), None)]
    assert set(changed.nonzero().squeeze(1).tolist()) <= set(torch.cat(owned).tolist())


def test_the_column_that_changed_most_goes_first_and_a_failed_one_comes_back() -> None:
    means = scatter(3000, 16.0, 1)
    scheduler = RegionScheduler(SMALL)
    scheduler.add(torch.tensor([[1.0, 1.0, 0.0]] * 5 + [[-3.0, -3.0, 0.0]] * 2), 1.0)
    first = Points(means).next(scheduler)
    assert first is not None
    assert list(first.changes) == [(0, 0)]
    scheduler.put_back(first)
    others = [Points(means).next(scheduler) for _ in range(2)]
    assert [list(region.changes) for region in others if region is not None] == [[(-1, -1)], [(0, 0)]]
    assert others[1] is not None and others[1].changes == first.changes


def test_changes_wait_for_a_map_that_hands_nothing_out_yet() -> None:
    means = scatter(500, 20.0, 0)
    scheduler = RegionScheduler(SMALL)
    scheduler.add(means[:3])
    assert Points(means[:0]).next(scheduler) is None
    assert scheduler.pending
    assert Points(means).next(scheduler) is not None


def test_changes_are_kept_when_cutting_the_region_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    means = scatter(3000, 16.0, 1)
    scheduler = RegionScheduler(SMALL)
    scheduler.add(torch.tensor([[1.0, 1.0, 0.0]]), 1.0)

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_region", fail)
        with pytest.raises(MemoryError):
            Points(means).next(scheduler)
    region = Points(means).next(scheduler)
    assert region is not None and list(region.changes) == [(0, 0)]


def test_what_was_seen_once_is_encoded_though_other_columns_change_all_the_time() -> None:
    means = scatter(3000, 16.0, 1)
    scheduler = RegionScheduler(SMALL)
    scheduler.add(torch.tensor([[-3.0, -3.0, 0.0]]), 1.0)
    seen = torch.tensor([[1.0, 1.0, 0.0], [5.0, 1.0, 0.0], [1.0, 5.0, 0.0]]).repeat_interleave(20, dim=0)
    served = set()
    for _ in range(100):
        scheduler.add(seen, 1.0)
        region = Points(means).next(scheduler)
        assert region is not None
        served |= set(region.changes)
    assert served == {(-1, -1), (0, 0), (1, 0), (0, 1)}


def test_a_column_that_always_fails_does_not_hold_up_the_others() -> None:
    means = scatter(3000, 16.0, 1)
    scheduler = RegionScheduler(SMALL)
    served = []
    for _ in range(30):
        scheduler.add(torch.tensor([[1.0, 1.0, 0.0]] * 20 + [[-3.0, -3.0, 0.0]]), 1.0)
        region = Points(means).next(scheduler)
        assert region is not None
        served += region.changes
        if (0, 0) in region.changes:
            scheduler.put_back(region)
    assert served.count((-1, -1)) >= 3


def test_only_the_surroundings_of_a_change_are_encoded_again() -> None:
    means = scatter(40_000, 16.0, 1)
    scheduler = RegionScheduler(SMALL)
    scheduler.add(torch.tensor([[1.0, 1.2, 0.0], [1.5, 1.0, 0.0]]))
    region = Points(means).next(scheduler)
    assert region is not None
    low, high = torch.tensor([1.0, 1.0]), torch.tensor([1.5, 1.2])
    plane = means[:, :2]

    def within(margin: float) -> torch.Tensor:
        return ((plane >= low - margin) & (plane <= high + margin)).all(dim=1).nonzero().squeeze(1)

    margin = SMALL.halo / 4 + 1e-3
    assert torch.equal(Points(means).owned(region), within(margin))
    assert torch.equal(Points(means).context(region), within(margin + SMALL.halo))


def test_a_change_on_the_border_of_columns_is_one_region() -> None:
    means = scatter(40_000, 16.0, 1)
    scheduler = RegionScheduler(
        parse(Config, {"encoder.max_gaussians": 5000, "encoder.halo": 0.5, "encoder.min_context": 0}).encoder
    )
    scheduler.add(torch.tensor([[4.0 + dx, 4.0 + dy, 0.0] for dx in (-0.2, 0.2) for dy in (-0.2, 0.2)]))
    region = Points(means).next(scheduler)
    assert region is not None
    assert sorted(region.changes) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert not scheduler.pending
    assert len(Points(means).context(region)) <= 5000


def test_changes_far_apart_in_neighbouring_columns_stay_apart() -> None:
    means = scatter(40_000, 16.0, 1)
    scheduler = RegionScheduler(parse(Config, {"encoder.max_gaussians": 30_000, "encoder.halo": 0.5}).encoder)
    scheduler.add(torch.tensor([[0.2, 0.2, 0.0], [7.8, 3.8, 0.0]]))
    region = Points(means).next(scheduler)
    assert region is not None and len(region.changes) == 1


def test_a_small_change_is_read_with_enough_around_it() -> None:
    means = scatter(40_000, 16.0, 1)
    options = {"encoder.max_gaussians": 5000, "encoder.halo": 0.5, "encoder.min_context": 3000}
    scheduler = RegionScheduler(parse(Config, options).encoder)
    scheduler.add(torch.tensor([[1.0, 1.0, 0.0]]), 0.2)
    region = Points(means).next(scheduler)
    assert region is not None
    assert 3000 <= len(Points(means).context(region)) < 5000, "as many as asked for, not the whole map"
    owned = means[Points(means).owned(region), :2]
    assert float((owned - 1.0).abs().max()) < 0.1 + 0.125 + 2e-3, "what is made anew stays as it was"
