"""Keyframes show what the map is made of, from every side it was seen from, within their bounds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bodies import CAMERA, make_frame, moved
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.config import KeyframeConfig, MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.mapping import GaussianMap, Keyframe, KeyframeStore

CONFIG = KeyframeConfig(count=20, mib=4, novelty=0.3)


def offer(store: KeyframeStore, map_: GaussianMap, frame: RgbdFrame) -> bool:
    map_.integrate(frame)
    return store.offer(frame, *map_.touched())


def view(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, stamp: float = 0.0) -> RgbdFrame:
    return make_frame(2.0, pose=moved(x, y, 0.0, yaw), stamp=stamp)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_what_is_kept_comes_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (CAMERA.height, CAMERA.width)
    smooth = np.linspace(40, 200, shape[1])[None, :, None] + rng.uniform(-30, 30, 3)
    color = np.broadcast_to(smooth, (*shape, 3)).clip(0, 255).astype(np.uint8)
    depth = rng.uniform(0.1, 80.0, shape).astype(np.float32)
    depth[rng.random(shape) < 0.2] = 0.0
    frame = RgbdFrame(
        color, depth, CAMERA, moved(*rng.normal(size=3), yaw=rng.uniform(-3, 3)), int(rng.integers(2**60))
    )
    found = Keyframe.of(frame, 7).frame()
    expected = np.where(depth > 65.5355, 0.0, depth)
    assert np.abs(found.depth - expected).max() <= 5.1e-4
    assert np.abs(found.color.astype(int) - color).max() <= 8
    assert np.array_equal(found.world_from_camera, frame.world_from_camera)
    assert (found.stamp, found.intrinsics) == (frame.stamp, CAMERA)


def test_a_frame_is_kept_for_new_surface_and_for_a_new_side() -> None:
    store, map_ = KeyframeStore(CONFIG), GaussianMap(MapConfig(voxel_size=0.04))
    assert offer(store, map_, view())
    assert not offer(store, map_, view()), "nothing new"
    assert not offer(store, map_, view(x=0.02)), "the camera hardly moved"
    assert not offer(store, map_, view(x=0.15)), "a tenth of the surface is new"
    assert offer(store, map_, view(x=6.0)), "new surface"
    half_turn = moved(yaw=np.pi)
    half_turn[:3, 3] = (0.0, 0.0, 4.0)  # looks back at the same wall, from behind
    assert offer(store, map_, make_frame(2.0, pose=half_turn)), "a new side of it"
    assert [keyframe.number for keyframe in store.keyframes()] == [0, 1, 2]


@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=6, deadline=None)
def test_bounds_always_hold_and_books_are_right(seed: int, count: int, novelty: float) -> None:
    rng = np.random.default_rng(seed)
    store, map_ = KeyframeStore(KeyframeConfig(count, 1, novelty)), GaussianMap(MapConfig(voxel_size=0.08))
    for _ in range(12):
        kept = offer(store, map_, view(*rng.uniform(-4, 4, 2), yaw=rng.uniform(-3, 3)))
        assert len(store) <= count and store.nbytes <= 1 << 20
        if kept:
            newest = store.keyframes()[-1].world_from_camera
            assert np.array_equal(newest, store._last), "the newest is never dropped"
        showing: dict[int, list[int]] = {}
        for number, (_, views) in store._kept.items():
            for seen in views:
                showing.setdefault(seen, []).append(number)
        assert store._shown == {seen: (len(numbers), sum(numbers)) for seen, numbers in showing.items()}
        alone = [numbers[0] for numbers in showing.values() if len(numbers) == 1]
        assert store._alone == {number: alone.count(number) for number in store._kept}
        assert store.nbytes == sum(keyframe.nbytes for keyframe in store.keyframes())
    numbers = [keyframe.number for keyframe in store.keyframes()]
    assert numbers == sorted(set(numbers))


def test_bytes_are_bounded_too() -> None:
    rng = np.random.default_rng(0)
    store, map_ = KeyframeStore(dataclasses.replace(CONFIG, mib=1)), GaussianMap(MapConfig(voxel_size=0.08))
    for x in range(0, 240, 6):
        noise = rng.integers(0, 255, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
        frame = dataclasses.replace(view(x=float(x)), color=noise)
        assert offer(store, map_, frame)
        assert store.nbytes <= 1 << 20
    assert 1 < len(store) <= CONFIG.count


def test_the_one_that_is_missed_least_makes_room() -> None:
    store, map_ = (
        KeyframeStore(dataclasses.replace(CONFIG, count=3, novelty=0.1)),
        GaussianMap(MapConfig(voxel_size=0.04)),
    )
    assert offer(store, map_, view(x=6.0, stamp=1.0))
    assert offer(store, map_, view(stamp=2.0))
    assert offer(store, map_, view(x=0.6, stamp=3.0)), "mostly what the one before shows"
    assert offer(store, map_, view(x=-6.0, stamp=4.0))
    stamps = [keyframe.stamp for keyframe in store.keyframes()]
    assert stamps[0] == 1_000_000_000 and stamps[-1] == 4_000_000_000
    assert len(stamps) == 3


def test_none_are_kept_where_none_are_wanted() -> None:
    store, map_ = KeyframeStore(dataclasses.replace(CONFIG, count=0)), GaussianMap(MapConfig(voxel_size=0.04))
    assert not store.wants(view())
    assert not offer(store, map_, view())
    assert (len(store), store.nbytes, store.keyframes()) == (0, 0, [])


@pytest.mark.parametrize("depth", [0.0, np.nan])
def test_a_frame_that_touches_nothing_is_not_kept(depth: float) -> None:
    store, map_ = KeyframeStore(CONFIG), GaussianMap(MapConfig(voxel_size=0.04))
    assert not offer(store, map_, make_frame(depth))


def test_clearing_begins_anew() -> None:
    store, map_ = KeyframeStore(CONFIG), GaussianMap(MapConfig(voxel_size=0.04))
    assert offer(store, map_, view())
    store.clear()
    assert len(store) == 0
    assert offer(store, map_, view())
    assert store.keyframes()[0].number == 1, "numbers are not used again"
