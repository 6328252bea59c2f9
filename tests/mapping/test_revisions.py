"""Readers that look at different times learn all that changed, whoever else reads, through eviction and new starts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from bodies import make_frame, moved
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.config import MapConfig
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import Cursor, GaussianMap, MapMirror
from chorus_core.mapping.gaussian_state import COLOR, MEAN
from chorus_core.mapping.revisions import Tombstones

CONFIG = MapConfig(voxel_size=0.04, max_gaussians=4000)
Block = dict[int, tuple[float, ...]]


def block_content(map_: GaussianMap, block: torch.Tensor) -> Block:
    """What a block hands out, by birth: geometry, label and confidence."""
    store, slots = map_.store, map_.export_blocks(block[None]).slots
    values = torch.cat(
        (store.state[slots, MEAN], store.state[slots, COLOR], store.labels[slots, None], store.confidence[slots, None]),
        1,
    )
    return dict(zip(store.birth[slots].tolist(), map(tuple, values.tolist()), strict=True))


def content(map_: GaussianMap, blocks: torch.Tensor) -> dict[int, Block]:
    found = {int(map_.store.block_key[block]): block_content(map_, block) for block in blocks}
    return {key: block for key, block in found.items() if block}


class Reader:
    """Keeps a copy of the map block by block, of what it is told alone."""

    def __init__(self) -> None:
        self.cursor = Cursor()
        self.blocks: dict[int, Block] = {}

    def read(self, map_: GaussianMap) -> int:
        changes = map_.changes_since(self.cursor)
        if changes.restarted:
            self.blocks = {}
        for key in (*changes.removed.tolist(), *map_.store.block_key[changes.blocks].tolist()):
            self.blocks.pop(key, None)
        self.blocks |= content(map_, changes.blocks)
        self.cursor = changes.cursor
        return changes.blocks.numel()


def act(map_: GaussianMap, rng: np.random.Generator) -> None:
    """A frame somewhere, meaning for a part, or, seldom, another start."""
    kind = rng.random()
    if kind < 0.05:
        map_.clear()
    elif kind < 0.35 and len(map_):
        whole = map_.export()
        part = whole[torch.from_numpy(rng.random(len(whole.slots)) < 0.3)]
        features = torch.from_numpy(rng.normal(size=(len(part.slots), 4))).half()
        labels = torch.from_numpy(rng.integers(0, 5, len(part.slots)))
        map_.describe(part.slots, part.births, features, labels, torch.rand(len(part.slots)), 1)
    else:
        pose = moved(*rng.uniform(-4, 4, 2), 0.0, yaw=rng.uniform(-3, 3))
        map_.integrate(make_frame(rng.uniform(0.8, 3.0), pose=pose))


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_every_reader_holds_the_map_after_it_has_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    map_ = GaussianMap(CONFIG, feature_dim=4)
    often, seldom, mirror = Reader(), Reader(), MapMirror(map_)
    for step in range(8):
        act(map_, rng)
        whole = content(map_, map_.store.blocks())
        often.read(map_)
        assert often.blocks == whole
        assert often.read(map_) == 0, "nothing is told twice"
        if step % 3 == 2:
            seldom.read(map_)
            assert seldom.blocks == whole
        if rng.random() < 0.5:
            mirror.refresh()
            check_mirror(mirror, map_)


def check_mirror(mirror: MapMirror, map_: GaussianMap) -> None:
    whole, store = map_.export(), map_.store
    slots = mirror.handed_out
    assert slots.tolist() == whole.slots.tolist()
    assert np.array_equal(mirror.births[slots], whole.births.numpy())
    assert np.array_equal(mirror.means[slots], whole.gaussians.means.numpy())
    assert np.array_equal(mirror.colors[slots], (whole.gaussians.colors * 255).round().byte().numpy())
    for name in ("labels", "confidence", "first_seen", "last_seen"):
        assert np.array_equal(getattr(mirror, name)[slots], getattr(store, name)[whole.slots].numpy()), name
    assert mirror.count == len(slots)
    assert mirror.labelled == int((mirror.labels[slots] >= 0).sum())
    assert sorted(mirror.slots_in(list(mirror._slots_of))) == slots.tolist()
    assert bool((mirror.labels[mirror.births < 0] == -1).all())


def test_a_frame_is_news_of_its_own_blocks_alone() -> None:
    map_, reader = GaussianMap(CONFIG), Reader()
    map_.integrate(make_frame(2.0))
    everything = reader.read(map_)
    map_.integrate(make_frame(2.0, pose=moved(x=8.0)))
    assert 0 < reader.read(map_) <= everything
    assert map_.changes_since(map_.cursor).blocks.numel() == 0
    assert not map_.changes_since(map_.cursor)


def test_meaning_is_no_news_to_who_reads_geometry() -> None:
    map_ = GaussianMap(CONFIG, feature_dim=4)
    map_.integrate(make_frame(2.0))
    cursor, part = map_.cursor, map_.export()
    count = len(part.slots)
    map_.describe(part.slots, part.births, torch.ones(count, 4).half(), torch.zeros(count), torch.ones(count), 7)
    assert not map_.changes_since(cursor, "geometry")
    assert map_.changes_since(cursor, "features").blocks.numel() == map_.store.blocks().numel()
    assert set(map_.store.model_revision[map_.store.blocks()].tolist()) == {7}


def test_meaning_of_what_is_no_longer_there_is_not_kept() -> None:
    map_ = GaussianMap(CONFIG, feature_dim=1)
    map_.integrate(make_frame(2.0))
    old = map_.export()
    for _ in range(12):
        map_.integrate(make_frame(3.5))  # all that stood nearer is carved
    there = map_.still_there(old.slots, old.births)
    assert not there.any()
    count = len(old.slots)
    assert (
        map_.describe(old.slots, old.births, torch.ones(count, 1).half(), torch.zeros(count), torch.ones(count), 1) == 0
    )
    assert bool((map_.store.labels == -1).all())


def test_eviction_is_told_and_what_came_back_is_not_called_removed() -> None:
    map_, reader = GaussianMap(dataclasses.replace(CONFIG, max_gaussians=3000)), Reader()
    for x in (0.0, 6.0, 12.0):
        reader.read(map_)
        report = map_.integrate(make_frame(2.0, pose=moved(x=x)))
        if report.evicted:
            removed = set(map_.changes_since(reader.cursor).removed.tolist())
            assert removed and removed <= reader.blocks.keys() | removed
            assert not removed & set(map_.store.block_key[map_.store.blocks()].tolist())
    assert report.evicted
    cursor = reader.cursor
    for x in (0.0, 6.0):
        map_.integrate(make_frame(2.0, pose=moved(x=x)))
    removed = map_.changes_since(cursor).removed
    assert not set(removed.tolist()) & set(content(map_, map_.store.blocks()))


def test_another_start_has_another_identity() -> None:
    map_ = GaussianMap(CONFIG)
    map_.integrate(make_frame(2.0))
    before, cursor = map_.map_id, map_.cursor
    map_.clear()
    assert map_.map_id != before
    changes = map_.changes_since(cursor)
    assert changes.restarted and changes
    assert changes.blocks.numel() == 0


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 20))
def test_tombstones_forget_the_oldest_and_say_so(sizes: list[int], limit: int) -> None:
    tombstones, keys = Tombstones(limit), iter(range(1000))
    added = []
    for revision, size in enumerate(sizes, 1):
        added.append((revision, [next(keys) for _ in range(size)]))
        tombstones.add(revision, torch.tensor(added[-1][1]))
    for since in range(len(sizes) + 1):
        expected = [key for revision, group in added if revision > since for key in group]
        found = tombstones.since(since, torch.device("cpu")).tolist()
        if since >= tombstones.complete_since:
            assert found == expected
    kept = tombstones.since(tombstones.complete_since, torch.device("cpu")).numel()
    assert kept >= min(limit, sum(sizes))
    assert kept < limit + 9


def test_a_reader_too_far_behind_reads_everything() -> None:
    map_, reader = GaussianMap(CONFIG), Reader()
    map_.integrate(make_frame(2.0))
    reader.read(map_)
    map_.integrate(make_frame(2.0, pose=moved(x=8.0)))
    map_.store._tombstones.complete_since = reader.cursor.revision + 1
    assert map_.changes_since(reader.cursor).restarted
    reader.read(map_)
    assert reader.blocks == content(map_, map_.store.blocks())


def test_other_rules_of_handing_out_are_news_of_everything() -> None:
    map_, reader = GaussianMap(CONFIG), Reader()
    for i in range(6):
        depth = 2.0 + np.random.default_rng(i).normal(0, 0.05, (120, 160))
        map_.integrate(make_frame(depth))
    reader.read(map_)
    before = len(map_.export().slots)
    map_.reconfigure(dataclasses.replace(CONFIG, min_share=0.9))
    assert len(map_.export().slots) < before
    reader.read(map_)
    assert reader.blocks == content(map_, map_.store.blocks())


@pytest.mark.parametrize("min_hits", [2, 3])
def test_what_more_frames_are_demanded_of_is_news(min_hits: int) -> None:
    map_, reader = GaussianMap(dataclasses.replace(CONFIG, min_hits=min_hits)), Reader()
    for x in (0.0, 8.0, 16.0, 0.0):
        map_.integrate(make_frame(2.0, pose=moved(x=x)))
        reader.read(map_)
        assert reader.blocks == content(map_, map_.store.blocks())


@pytest.mark.parametrize("metres", [0.01, 0.4, 3.0, 500.0])
def test_blocks_around_some_are_found_however_wide_the_search(metres: float) -> None:
    map_ = GaussianMap(CONFIG)
    for x in (0.0, 9.0):
        map_.integrate(make_frame(2.0, pose=moved(x=x)))
    mirror = MapMirror(map_)
    mirror.refresh()
    keys = map_.store.block_key[map_.store.blocks()]
    asked = keys[::40]
    places, centres = map_.store.block_centers(map_.store.blocks()), map_.store.block_centers(map_.store.blocks()[::40])
    reach = np.ceil(metres / map_.store.block_edge) * map_.store.block_edge + 1e-3
    near = ((places[:, None] - centres).abs().amax(dim=2) <= reach).any(dim=1)
    found = set(mirror.keys_around(asked.numpy(), metres).tolist())
    assert found & set(keys.tolist()) == set(keys[near].tolist())
    assert mirror.keys_around(asked[:0].numpy(), metres).tolist() == []


def block(x: float, count: int = 4) -> Gaussians:
    """Gaussians of one block, in voxels side by side."""
    means = torch.zeros(count, 3)
    means[:, 0] = x + 0.02 + 0.04 * torch.arange(count)
    means[:, 1:] = 0.02
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
    return Gaussians(means, quats, torch.full((count, 3), 0.02), torch.ones(count), torch.rand(count, 3))


def evict(map_: GaussianMap, x: float) -> int:
    map_.store.advance()
    key, _ = map_.store.locate(torch.tensor([[x + 0.02, 0.02, 0.02]]))
    return map_.store.remove_blocks(map_.store.find_blocks(key))


def test_a_block_that_came_back_empty_is_told_as_removed() -> None:
    """Pixels make blocks, and may then join a Gaussian beside them, or find the map full."""
    map_ = GaussianMap(CONFIG)
    for x in (0.0, 8.0):
        map_.insert(block(x))
    reader, mirror = Reader(), MapMirror(map_)
    reader.read(map_)
    mirror.refresh()
    assert evict(map_, 0.0) == 4
    map_.insert(block(16.0))  # in the slots of the block that went
    map_.store.make_blocks(map_.store.locate(block(0.0).means)[0])
    reader.read(map_)
    assert reader.blocks == content(map_, map_.store.blocks())
    mirror.refresh()
    check_mirror(mirror, map_)
    map_.insert(block(0.0))
    reader.read(map_)
    assert reader.blocks == content(map_, map_.store.blocks())
    mirror.refresh()
    check_mirror(mirror, map_)


def test_a_block_that_went_twice_is_told_once() -> None:
    map_ = GaussianMap(CONFIG)
    map_.insert(block(0.0))
    map_.insert(block(8.0))
    mirror, cursor = MapMirror(map_), map_.cursor
    mirror.refresh()
    evict(map_, 0.0)
    map_.insert(block(0.0))
    evict(map_, 0.0)
    assert map_.changes_since(cursor).removed.numel() == 1
    mirror.refresh()
    check_mirror(mirror, map_)


def test_rows_that_could_not_grow_do_so_later(monkeypatch: pytest.MonkeyPatch) -> None:
    map_ = GaussianMap(dataclasses.replace(CONFIG, max_gaussians=200_000))
    map_.insert(block(0.0))
    mirror = MapMirror(map_)
    mirror.refresh()
    map_.store._grow_slots(2 * map_.store.capacity)
    map_.insert(block(8.0))
    full, calls = np.full, []

    def third_fails(*arguments: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return full(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(np, "full", third_fails)
        with pytest.raises(MemoryError):
            mirror.refresh()
    mirror.refresh()
    check_mirror(mirror, map_)


def test_evictions_of_nothing_are_not_remembered() -> None:
    tombstones = Tombstones()
    for revision in range(1, 100):
        tombstones.add(revision, torch.zeros(0, dtype=torch.int64))
    assert len(tombstones._removals) == 0


def test_a_map_that_was_restored_is_news_to_every_cursor() -> None:
    map_ = GaussianMap(CONFIG)
    map_.insert(block(0.0))
    state = map_.state()
    map_.insert(block(8.0))
    cursors = [Cursor(map_.map_id, revision) for revision in range(map_.store.revision + 1)]
    encoded = map_.restore(state)
    for cursor in cursors:
        assert map_.changes_since(cursor).restarted
    assert not map_.changes_since(encoded).restarted
    later = map_.cursor
    map_.clear()
    assert map_.cursor.revision > later.revision


@pytest.mark.parametrize("place", ["_grow_slots", "_grow_blocks"])
def test_a_restore_without_memory_leaves_the_map_as_it_is(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    map_, other = GaussianMap(CONFIG), GaussianMap(CONFIG)
    map_.insert(block(0.0))
    other.insert(block(8.0, count=7))
    before, known = map_.map_id, content(map_, map_.store.blocks())

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(type(map_.store), place, fail)
        with pytest.raises(MemoryError):
            map_.restore(other.state())
    assert (map_.map_id, len(map_), map_.frames) == (before, 4, 1)
    assert content(map_, map_.store.blocks()) == known
