"""The transform buffer against an independent brute-force one, and against everything a live system does to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from chorus_core.io.transform_buffer import TransformBuffer, TransformError, TransformNotYetError


def rigid(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(rng=rng).as_matrix()
    matrix[:3, 3] = rng.normal(size=3)
    return matrix


def translation(x: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


def brute_force_sample(samples: dict[float, np.ndarray], stamp: float) -> np.ndarray:
    """Linear and spherical interpolation, the latter by scipy's Slerp."""
    if stamp in samples:
        return samples[stamp]
    before = max(s for s in samples if s < stamp)
    after = min(s for s in samples if s > stamp)
    f = (stamp - before) / (after - before)
    a, b = samples[before], samples[after]
    slerp = Slerp([before, after], Rotation.from_matrix([a[:3, :3], b[:3, :3]]))
    matrix = np.eye(4)
    matrix[:3, :3] = slerp(stamp).as_matrix()
    matrix[:3, 3] = a[:3, 3] + f * (b[:3, 3] - a[:3, 3])
    return matrix


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_against_brute_force(data):
    """A random tree with moving and static edges, samples in random order, lookups between random frames."""
    count = data.draw(st.integers(2, 7), "frames")
    parents = {f"f{i}": f"f{data.draw(st.integers(0, i - 1))}" for i in range(1, count)}
    static = {child: data.draw(st.booleans(), f"{child} static") for child in parents}
    buffer = TransformBuffer(history=math.inf)
    edges: dict[str, dict[float, np.ndarray]] = {}
    for i, (child, parent) in enumerate(parents.items()):
        stamps = data.draw(st.permutations([0.0, 0.5, 1.25, 2.0, 3.0]), child)
        edges[child] = {s: rigid(100 * i + int(4 * s)) for s in stamps}
        for stamp in stamps[:1] if static[child] else stamps:
            buffer.set_transform(parent, child, stamp, edges[child][stamp], static=static[child])
        if static[child]:
            edges[child] = {math.inf: edges[child][stamps[0]]}
    stamp = data.draw(st.floats(0, 3), "stamp")

    def root_from(frame: str) -> np.ndarray:
        matrix = np.eye(4)
        while frame in parents:
            edge = edges[frame]
            matrix = (edge[math.inf] if static[frame] else brute_force_sample(edge, stamp)) @ matrix
            frame = parents[frame]
        return matrix

    target, source = (f"f{data.draw(st.integers(0, count - 1))}" for _ in range(2))
    expected = np.linalg.inv(root_from(target)) @ root_from(source)
    np.testing.assert_allclose(buffer.lookup(target, source, stamp), expected, atol=1e-6)


def test_only_the_edges_on_the_way_need_data():
    buffer = TransformBuffer()
    buffer.set_transform("map", "odom", 1.0, translation(100.0))
    buffer.set_transform("odom", "base", 50.0, translation(1.0))
    buffer.set_transform("base", "camera", 0.0, translation(0.5), static=True)
    assert buffer.lookup("odom", "camera", 50.0)[0, 3] == 1.5
    with pytest.raises(TransformNotYetError):
        buffer.lookup("map", "camera", 50.0)


def test_no_extrapolation_beyond_the_tolerance():
    buffer = TransformBuffer(tolerance=0.05)
    for stamp in (1.0, 2.0):
        buffer.set_transform("odom", "base", stamp, translation(stamp))
    assert buffer.lookup("odom", "base", 2.04)[0, 3] == 2.0
    assert buffer.lookup("odom", "base", 0.96)[0, 3] == 1.0
    with pytest.raises(TransformNotYetError, match=r"'odom' from 'base' at 2\.060000 s: 0\.060 s after .* 2\.000000"):
        buffer.lookup("odom", "base", 2.06)
    with pytest.raises(TransformError, match=r"0\.060 s before the oldest sample") as caught:
        buffer.lookup("odom", "base", 0.94)
    assert not isinstance(caught.value, TransformNotYetError)


def test_history_is_bounded():
    buffer = TransformBuffer(history=2.0)
    for stamp in range(1000):
        buffer.set_transform("odom", "base", stamp / 10, translation(stamp))
    assert len(buffer._edges["base"]["odom"].stamps) == 21
    assert buffer.lookup("odom", "base", 97.95)[0, 3] == pytest.approx(979.5)
    with pytest.raises(TransformError, match="before the oldest"):
        buffer.lookup("odom", "base", 97.5)


def test_gap_is_not_bridged():
    """A recorder that was paused for two minutes: nobody knows where the robot was at 60 s."""
    buffer = TransformBuffer(history=math.inf, max_gap=0.5)
    for stamp in (0.0, 120.0, 120.5, 121.1):
        buffer.set_transform("odom", "base", stamp, translation(stamp))
    buffer.set_transform("base", "camera", 0.0, translation(0.5), static=True)
    with pytest.raises(TransformError, match=r"at 60\.000000 s.* 120\.000 s apart, expected at most 0\.5 s") as caught:
        buffer.lookup("odom", "camera", 60.0)
    assert not isinstance(caught.value, TransformNotYetError)
    with pytest.raises(TransformError, match=r"0\.600 s apart"):
        buffer.lookup("odom", "camera", 120.6)
    for stamp in (0.0, 120.0, 120.25, 120.5, 121.1):
        assert buffer.lookup("odom", "camera", stamp)[0, 3] == stamp + 0.5
    assert buffer.lookup("base", "camera", 60.0)[0, 3] == 0.5  # static: holds at every time


def test_gap_of_exactly_the_limit_is_bridged_whatever_the_rounding():
    for start in (0.0, 1_700_000_000.0, 1_700_000_000.123456789):
        buffer = TransformBuffer(history=math.inf, max_gap=0.1)
        for i in range(50):
            buffer.set_transform("odom", "base", start + 0.1 * i, translation(i))
        for i in range(49):
            assert buffer.lookup("odom", "base", start + 0.1 * i + 0.05)[0, 3] == pytest.approx(i + 0.5, abs=1e-4)


def test_frames_of_the_earth_are_far_from_their_origin():
    """utm -> map is hundreds of kilometres long, and cancels out of every pose in the map."""
    utm_from_map = translation(5e5)
    utm_from_map[1, 3] = 5.4e6
    buffer = TransformBuffer()
    buffer.set_transform("utm", "map", 0.0, utm_from_map, static=True)
    buffer.set_transform("utm", "base", 1.0, utm_from_map @ translation(3.0))
    buffer.set_transform("base", "camera", 0.0, translation(0.5), static=True)
    np.testing.assert_allclose(buffer.lookup("utm", "camera", 1.0), utm_from_map @ translation(3.5))
    np.testing.assert_allclose(buffer.lookup("map", "camera", 1.0), translation(3.5), atol=1e-8)


def test_late_sample_takes_its_place_and_repeated_one_replaces():
    buffer = TransformBuffer()
    for stamp, x in ((1.0, 0.0), (3.0, 0.0), (2.0, 7.0), (3.0, 1.0)):
        buffer.set_transform("odom", "base", stamp, translation(x))
    assert buffer.lookup("odom", "base", 2.0)[0, 3] == 7.0
    assert buffer.lookup("odom", "base", 2.5)[0, 3] == 4.0


def test_clock_set_back_starts_over():
    buffer = TransformBuffer(history=10.0)
    for stamp in (1000.0, 1001.0):
        buffer.set_transform("odom", "base", stamp, translation(1.0))
    buffer.set_transform("base", "camera", 0.0, translation(0.5), static=True)
    for stamp in (5.0, 6.0):
        buffer.set_transform("odom", "base", stamp, translation(2.0))
    assert buffer.lookup("odom", "camera", 5.5)[0, 3] == 2.5
    with pytest.raises(TransformNotYetError):
        buffer.lookup("odom", "base", 1000.0)


def test_clear_keeps_static_transforms():
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", 1.0, translation(1.0))
    buffer.set_transform("base", "camera", 0.0, translation(0.5), static=True)
    buffer.clear()
    assert buffer.lookup("base", "camera", 123.0)[0, 3] == 0.5
    with pytest.raises(TransformError, match="unknown frame 'odom'"):
        buffer.lookup("odom", "camera", 1.0)


def test_unknown_and_unconnected_frames_and_loops():
    buffer = TransformBuffer()
    with pytest.raises(TransformError, match="unknown frame 'a', 'b'; known are: none"):
        buffer.lookup("a", "b", 0.0)
    buffer.set_transform("/map", "base", 0.0, np.eye(4))
    buffer.set_transform("other", "thing", 0.0, np.eye(4))
    np.testing.assert_array_equal(buffer.lookup("map", "/base", 0.0), np.eye(4))
    with pytest.raises(TransformError, match="not connected"):
        buffer.lookup("map", "thing", 0.0)
    buffer.set_transform("base", "map", 0.0, np.eye(4))
    with pytest.raises(TransformError, match="loop: base -> map -> base"):
        buffer.lookup("other", "base", 0.0)


def test_the_past_keeps_its_parent():
    """An arm takes a cup off the table: before, it hangs from the table, after, from the gripper."""
    buffer = TransformBuffer(history=math.inf)
    buffer.set_transform("room", "table", 0.0, translation(1.0), static=True)
    for stamp in (0.0, 1.0, 2.0):
        buffer.set_transform("room", "gripper", stamp, translation(10.0 * stamp))
    for stamp in (0.0, 0.5):
        buffer.set_transform("table", "cup", stamp, translation(0.2))
    for stamp in (1.0, 2.0):
        buffer.set_transform("gripper", "cup", stamp, translation(0.1))
    assert buffer.lookup("room", "cup", 0.25)[0, 3] == pytest.approx(1.2)
    assert buffer.lookup("room", "cup", 1.5)[0, 3] == pytest.approx(15.1)
    with pytest.raises(TransformError, match="after the newest sample"):
        buffer.lookup("room", "cup", 0.75)  # nobody knows when it was taken
    assert buffer.lookup("gripper", "cup", 1.5)[0, 3] == pytest.approx(0.1)
    assert set(buffer.ancestors("cup")) == {"cup", "table", "gripper", "room"}


@pytest.mark.parametrize("stray", [-1.0, 0.35, 2.0])
def test_a_stray_parent_costs_nothing(stray, caplog):
    """One transform from another tree, before, amid or after the others."""
    buffer = TransformBuffer(history=math.inf)
    transforms = [("map", 0.1 * i, translation(i)) for i in range(10)] + [("wheel_odom", stray, translation(77.0))]
    for parent, stamp, matrix in sorted(transforms, key=lambda t: t[1]):
        buffer.set_transform(parent, "base", stamp, matrix)
    for stamp in (0.0, 0.32, 0.35, 0.37, 0.9):
        assert buffer.lookup("map", "base", stamp)[0, 3] == pytest.approx(10 * stamp)
    assert buffer.root("base") == "map"
    assert [r.getMessage() for r in caplog.records if "more than one parent" in r.getMessage()] != []


def test_two_publishers_that_disagree_on_the_parent():
    """Neither's samples are interpolated with the other's; the parent that is asked for tells whose are meant."""
    buffer = TransformBuffer()
    for i in range(20):
        buffer.set_transform("odom" if i % 2 else "vio", "base", 0.1 * i, translation(i if i % 2 else 100 + i))
    assert buffer.lookup("odom", "base", 0.8)[0, 3] == pytest.approx(8)
    assert buffer.lookup("vio", "base", 0.8)[0, 3] == pytest.approx(108)


def test_what_comes_last_before_the_stamp_wins():
    """Two ways lead to the same frame."""
    buffer = TransformBuffer()
    for child in ("a", "b"):
        buffer.set_transform("map", child, 0.0, translation(1.0 if child == "a" else 2.0), static=True)
    for parent, stamp in (("a", 0.0), ("a", 3.0), ("b", 1.0), ("b", 2.0)):
        buffer.set_transform(parent, "base", stamp, translation(0.0))
    assert [buffer.lookup("map", "base", stamp)[0, 3] for stamp in (0.5, 1.5, 2.5)] == [1.0, 2.0, 1.0]


def test_equal_parents_and_names():
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", 1.0, translation(1.0))
    buffer.set_transform("map", "base", 2.0, translation(2.0))
    assert buffer.lookup("map", "base", 2.0)[0, 3] == 2.0
    assert buffer.root("base") == "map" and buffer.moves("base")
    assert buffer.frames() == ("base", "map", "odom")


def test_fixed_frame_is_above_all_that_moves():
    buffer = TransformBuffer()
    buffer.set_transform("earth", "utm", 0.0, np.eye(4), static=True)
    buffer.set_transform("utm", "world", 0.0, np.eye(4), static=True)
    buffer.set_transform("world", "odom", 1.0, np.eye(4))
    buffer.set_transform("odom", "base", 1.0, np.eye(4))
    buffer.set_transform("base", "camera", 0.0, np.eye(4), static=True)
    assert buffer.fixed_frame("camera") == "world"
    assert buffer.fixed_frame("world") == "earth"
    assert buffer.ancestors("/camera") == ("camera", "base", "odom", "world", "utm", "earth")


def test_copy_without_the_parents_of_a_frame():
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", 1.0, translation(1.0))
    buffer.set_transform("base", "camera", 0.0, translation(0.5), static=True)
    copy = buffer.without_parents("base")
    copy.set_transform("vio", "base", 1.0, translation(7.0))
    copy.set_transform("base", "camera", 0.0, translation(0.0), static=True)
    assert copy.lookup("vio", "camera", 1.0)[0, 3] == 7.0
    assert copy.frames() == ("base", "camera", "vio")
    assert buffer.lookup("odom", "camera", 1.0)[0, 3] == 1.5


@pytest.mark.parametrize(
    ("parent", "child", "stamp", "matrix", "message"),
    [
        ("", "base", 0.0, np.eye(4), "two different frame names"),
        ("base", "/base", 0.0, np.eye(4), "two different frame names"),
        ("odom", "base", math.nan, np.eye(4), "stamp nan"),
        ("odom", "base", 0.0, np.full((4, 4), np.nan), "odom_from_base has non-finite"),
        ("odom", "base", 0.0, np.zeros((4, 4)), "odom_from_base .*not a rotation"),
        ("odom", "base", 0.0, np.eye(3), r"odom_from_base of shape \(3, 3\)"),
    ],
)
def test_bad_transforms_are_refused(parent, child, stamp, matrix, message):
    buffer = TransformBuffer()
    with pytest.raises(TransformError, match=message):
        buffer.set_transform(parent, child, stamp, matrix)
    assert buffer.frames() == ()


def test_bad_settings_and_stamps():
    for settings_ in (
        {"history": 0.0},
        {"history": math.nan},
        {"tolerance": -1.0},
        {"max_gap": 0.0},
        {"max_gap": math.nan},
    ):
        with pytest.raises(ValueError, match="expected history"):
            TransformBuffer(**settings_)
    with pytest.raises(TransformError, match="stamp nan"):
        TransformBuffer().lookup("a", "b", math.nan)


def test_caller_may_reuse_its_matrix():
    buffer = TransformBuffer()
    matrix = translation(1.0)
    buffer.set_transform("odom", "base", 0.0, matrix)
    matrix[0, 3] = 9.0
    assert buffer.lookup("odom", "base", 0.0)[0, 3] == 1.0


def test_static_root_ends_below_what_moves() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("odom", "base", 1.0, np.eye(4))
    buffer.set_transform("base", "mast", 0.0, np.eye(4), static=True)
    buffer.set_transform("mast", "camera", 0.0, np.eye(4), static=True)
    assert buffer.static_root("camera") == buffer.static_root("/camera") == "base"
    assert buffer.static_root("base") == "base"
    assert buffer.static_root("unknown") == "unknown"
