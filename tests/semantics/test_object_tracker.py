"""Objects formed piece by piece are those of the whole map, and keep their numbers for as long as they last."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.config import Config, MapConfig, SemanticsConfig, parse
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import GaussianMap, MapMirror
from chorus_core.mapping.mirror import NOTHING
from chorus_core.semantics import object_tracker
from chorus_core.semantics.object_tracker import ObjectTracker
from chorus_core.semantics.objects import SceneObject, objects_by_label
from chorus_core.semantics.vocabulary import Vocabulary

WORDS = Vocabulary(("chair", "table", "floor"))
CHAIR, TABLE, FLOOR = range(3)
CONFIG = parse(Config, {"semantics.object_gap": 0.15, "semantics.min_object_gaussians": 4}).semantics
VOXEL = 0.1


class World:
    """A map whose Gaussians and labels are set by hand, and what is known of its objects."""

    def __init__(self, config: SemanticsConfig = CONFIG) -> None:
        self.config = config
        self.map = GaussianMap(MapConfig(voxel_size=VOXEL, max_gaussians=5000), feature_dim=1)
        self.mirror = MapMirror(self.map)
        self.tracker = ObjectTracker(self.mirror, WORDS, config)

    def put(self, cells: np.ndarray, label: int, stamp: int = 1) -> World:
        """Gaussians in the middle of voxels, integer [N, 3], of a label."""
        count = len(cells)
        means = torch.from_numpy((cells + 0.5) * VOXEL).float()
        quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
        gaussians = Gaussians(means, quats, torch.full((count, 3), 0.05), torch.ones(count), torch.rand(count, 3))
        self.map.insert(gaussians, stamp)
        self.name(cells, label)
        return self

    def name(self, cells: np.ndarray, label: int) -> World:
        slots = self.slots(cells)
        values = torch.full((len(slots),), label)
        self.map.describe(slots, self.map.store.birth[slots], torch.ones(len(slots), 1).half(), values, values * 0.1, 1)
        return self

    def take(self, cells: np.ndarray) -> World:
        self.map.store.advance()
        self.map.store.release(self.slots(cells))
        return self

    def slots(self, cells: np.ndarray) -> torch.Tensor:
        slots = self.map.store.slots_at(torch.from_numpy((cells + 0.5) * VOXEL).float())
        return slots[slots >= 0].unique()

    def objects(self) -> list[SceneObject]:
        self.tracker.update(self.mirror.refresh())
        return sorted(self.tracker.objects.values(), key=lambda item: item.id)

    def of(self, cells: np.ndarray) -> set[int]:
        """Numbers of the objects that some Gaussians belong to."""
        slots = self.slots(cells).numpy()
        return set(self.tracker.object_of(slots, self.mirror.births[slots]).tolist())


def row(x: int, length: int, y: int = 0) -> np.ndarray:
    """Cells side by side along +x."""
    return np.stack((np.arange(x, x + length), np.full(length, y), np.zeros(length, int)), axis=1)


def plain(world: World) -> set[tuple[str, frozenset[int], float]]:
    """Objects of the whole map, grouped from nothing."""
    slots = world.map.export().slots
    store = world.map.store
    objects, _ = objects_by_label(
        world.map.export().gaussians.means.numpy(), store.labels[slots].numpy(), store.confidence[slots].numpy(),
        WORDS, gap=world.config.object_gap, min_count=world.config.min_object_gaussians,
    )  # fmt: skip
    return {(o.label, frozenset(slots[o.indices].tolist()), round(o.score, 5)) for o in objects}


def tracked(objects: list[SceneObject]) -> set[tuple[str, frozenset[int], float]]:
    return {(o.label, frozenset(o.indices.tolist()), round(o.score, 5)) for o in objects}


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_what_is_grouped_piece_by_piece_is_what_grouping_everything_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world, known = World(), set()
    for _ in range(15):
        cells = np.unique(rng.integers((0, 0, 0), (40, 12, 2), (rng.integers(1, 60), 3)), axis=0)
        kind = rng.random()
        if kind < 0.5:
            world.put(cells, int(rng.integers(0, 3)))
        elif kind < 0.75:
            world.take(cells)
        elif kind < 0.95:
            world.name(cells, int(rng.integers(0, 3)))
        elif rng.random() < 0.3:
            world.map.clear()
            known = set()
        if rng.random() < 0.7:
            objects = world.objects()
            assert tracked(objects) == plain(world)
            numbers = {item.id for item in objects}
            assert len(numbers) == len(objects) and 0 not in numbers
            for item in objects:
                assert world.tracker.object_of(item.indices, world.mirror.births[item.indices]).tolist() == (
                    [item.id] * item.count
                )
            known |= numbers
            assert world.tracker.next_id > max(known, default=0)


def test_an_object_keeps_its_number_while_it_grows_is_renamed_and_shrinks() -> None:
    world = World().put(row(0, 10), CHAIR)
    (first,) = world.objects()
    assert (first.id, first.label) == (1, "chair")
    world.put(row(10, 40), CHAIR)
    assert [(o.id, o.count) for o in world.objects()] == [(1, 50)]
    world.name(row(0, 50), TABLE)
    assert [(o.id, o.label) for o in world.objects()] == [(1, "table")]
    world.take(row(6, 44))
    assert [(o.id, o.count) for o in world.objects()] == [(1, 6)]


def test_of_two_that_grow_together_the_larger_goes_on_and_the_other_number_is_not_given_again() -> None:
    world = World().put(row(0, 10), CHAIR).put(row(12, 20), CHAIR)
    small, large = sorted(world.objects(), key=lambda item: item.count)
    world.put(row(10, 2), CHAIR)
    (joined,) = world.objects()
    assert joined.id == large.id
    world.take(row(10, 2))
    apart = {item.count: item.id for item in world.objects()}
    assert apart[20] == large.id
    assert apart[10] not in (small.id, large.id)


def test_a_cup_is_not_the_table_that_it_stood_on() -> None:
    world = World().put(row(0, 30), TABLE)
    (table,) = world.objects()
    world.name(row(10, 5), CHAIR)
    names = {item.label: item.id for item in world.objects() if item.id == table.id or item.label == "chair"}
    assert names["chair"] != table.id
    world.take(row(0, 10)).take(row(15, 15))
    assert [(o.label, o.id) for o in world.objects()] == [("chair", names["chair"])]


def test_what_changes_far_away_leaves_an_object_as_it_is() -> None:
    world = World().put(row(0, 10), CHAIR)
    (before,) = world.objects()
    world.put(row(100, 10), CHAIR)
    assert next(item for item in world.objects() if item.id == before.id) is before


def test_surfaces_of_the_building_are_no_objects() -> None:
    world = World().put(row(0, 30), FLOOR)
    assert world.objects() == []
    assert world.of(row(0, 30)) == {0}


def test_when_an_object_was_seen() -> None:
    world = World().put(row(0, 10), CHAIR, stamp=5)
    world.put(row(10, 5), CHAIR, stamp=9)
    (item,) = world.objects()
    assert (item.first_seen, item.last_seen) == (5, 9)
    world.take(row(0, 8))
    (item,) = world.objects()
    assert (item.first_seen, item.last_seen) == (5, 9), "what it was seen by first is gone, the object is not"


def test_other_limits_group_anew_and_keep_numbers() -> None:
    world = World().put(row(0, 10), CHAIR).put(row(12, 10), CHAIR)
    numbers = {item.id for item in world.objects()}
    wider = parse(Config, {"semantics.object_gap": 0.45, "semantics.min_object_gaussians": 4}).semantics
    world.tracker.reconfigure(WORDS, wider)
    world.tracker.update(world.mirror.everything())
    (joined,) = world.objects()
    assert joined.count == 20 and joined.id in numbers
    world.tracker.reconfigure(Vocabulary(("seat", "table", "floor")), wider)
    world.tracker.update(world.mirror.everything())
    (renamed,) = world.objects()
    assert (renamed.label, renamed.id) == ("seat", joined.id)


@pytest.mark.parametrize("first_seen", [0, 3])
def test_objects_of_a_file_are_taken_over(first_seen: int) -> None:
    world = World().put(row(0, 10), CHAIR, stamp=7).put(row(30, 10), TABLE, stamp=7)
    world.mirror.refresh()
    slots = world.mirror.handed_out
    ids = np.where(world.mirror.labels[slots] == CHAIR, 41, 7)
    world.tracker.adopt(slots, ids, {41: first_seen, 7: 5}, 50)
    found = {item.label: item for item in world.objects()}
    assert (found["chair"].id, found["chair"].first_seen) == (41, first_seen)
    assert (found["table"].id, found["table"].first_seen) == (7, 5)
    world.put(row(60, 10), CHAIR)
    assert {item.id for item in world.objects()} == {7, 41, 50}


def test_objects_that_were_not_followed_for_a_while_are_those_of_the_map() -> None:
    """Several refreshes of the rows between two looks at the objects, also across a new start."""
    rng = np.random.default_rng(0)
    world, pending = World(), NOTHING
    for step in range(60):
        cells = np.unique(rng.integers((0, 0, 0), (30, 10, 1), (30, 3)), axis=0)
        (world.put, world.name)[step % 2](cells, int(rng.integers(0, 2)))
        world.take(np.unique(rng.integers((0, 0, 0), (30, 10, 1), (8, 3)), axis=0))
        if step == 31:
            world.map.clear()
        pending = pending.then(world.mirror.refresh())
        if step % 4 == 3:
            if step % 8 == 7:
                pending = pending.then(world.mirror.everything())
            world.tracker.update(pending)
            pending = NOTHING
            assert tracked(list(world.tracker.objects.values())) == plain(world)


def test_a_grouping_that_fails_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World().put(row(0, 10), CHAIR).put(row(12, 10), CHAIR)
    before = {item.id for item in world.objects()}

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    world.put(row(10, 2), CHAIR).take(row(0, 3))
    touched = world.mirror.refresh()
    for place in ("connected_groups_of_kinds", "make_object"):
        with monkeypatch.context() as patched:
            patched.setattr(object_tracker, place, fail)
            with pytest.raises(MemoryError):
                world.tracker.update(touched)
        assert set(world.tracker.objects) == before
    world.tracker.update(touched)
    (joined,) = world.tracker.objects.values()
    assert joined.count == 19 and joined.id in before
    assert tracked(world.objects()) == plain(world)
