"""Frames between arrival and integration: what bounds each of the two waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chorus_ros.drops import DropCounter
from chorus_ros.waiting_room import WaitingRoom

SIZE = 10  # bytes of each frame here


def make(depth: int = 3, timeout: float = 0.5, max_bytes: int = 1000) -> tuple[WaitingRoom[str, int], DropCounter]:
    drops = DropCounter()
    return WaitingRoom(timeout, max_bytes, depth, drops, lambda item, arrived: f"no_pose_{item}"), drops


def known(**poses: int):
    return lambda item, waited: poses.get(item)


def test_order_and_the_end_of_the_wait() -> None:
    room, drops = make()
    for i, name in enumerate("abc"):
        room.push(name, SIZE, now=i * 0.1)
    assert room.pop(known(b=1), now=0.4) == ("b", 1)
    assert room.pop(known(), now=0.4) is None
    assert room.pop(known(), now=0.55) is None  # a has waited 0.55 s, c 0.35 s
    assert len(room) == 1
    assert drops.counts() == {"no_pose_a": 1}
    room.clear("reset")
    assert drops.counts()["reset"] == 1
    assert len(room) == 0


def test_find_is_told_how_long_a_frame_has_waited() -> None:
    room, _ = make()
    room.push("a", SIZE, now=1.0)
    asked = []
    room.pop(lambda item, waited: asked.append((item, round(waited, 6))), now=1.25)
    assert asked == [("a", 0.25)]


def test_late_poses_lose_nothing() -> None:
    """30 Hz, poses a quarter of a second late, three places for frames with a pose: none is lost."""
    room, drops = make(depth=3)
    found = []
    for tick in range(180):
        now = tick / 30
        room.push(str(tick), SIZE, now)
        while ready := room.pop(lambda item, _, now=now: True if int(item) / 30 <= now - 0.25 else None, now):
            found.append(int(ready[0]))
    assert found == list(range(180 - 8))  # all but those whose poses are still to come
    assert drops.total == 0


def test_slow_integration_drops_the_oldest_with_a_pose() -> None:
    room, drops = make(depth=3)
    for i, name in enumerate("abcde"):
        room.push(name, SIZE, now=i * 0.01)
    assert room.pop(lambda item, _: 1, now=0.6) == ("c", 1)
    assert drops.counts() == {"overflow_frame": 2}
    assert len(room) == 2


def test_poses_that_come_in_bursts_lose_nothing() -> None:
    """30 Hz with a source at 2.5 Hz: twelve frames have their pose at once, more than places, and 30 ms each to go."""
    room, drops = make(depth=3)
    found, busy_until = [], 0.0
    for tick in range(1200):
        now = tick / 300
        if tick % 10 == 0:
            room.push(str(tick), SIZE, now)
        newest = now // 0.4 * 0.4
        if now >= busy_until and (
            ready := room.pop(lambda item, _, newest=newest: True if int(item) / 300 <= newest else None, now)
        ):
            found.append(int(ready[0]))
            busy_until = now + 0.03
    assert drops.total == 0
    assert found == list(range(0, 10 * len(found), 10))
    assert len(found) > 105


def test_bytes_bound_all_frames() -> None:
    room, drops = make(depth=10, max_bytes=3 * SIZE)
    for name in "abc":
        room.push(name, SIZE, now=0.0)
    room.pop(known(a=1, b=2, c=3), now=0.0)  # a is out, b and c are ready
    for name in "defg":
        room.push(name, SIZE, now=0.1)
    assert drops.counts() == {"overflow_frame": 2, "overflow_waiting": 1}  # b, c and d
    assert [room.pop(known(e=4, f=5, g=6), now=0.2) for _ in range(3)] == [("e", 4), ("f", 5), ("g", 6)]
    for name in "hij":  # what was taken out is not counted any more
        room.push(name, SIZE, now=0.3)
    assert drops.total == 3


def test_frame_larger_than_the_bound_may_wait_alone() -> None:
    room, drops = make(max_bytes=SIZE)
    room.push("a", 100 * SIZE, now=0.0)
    assert drops.total == 0
    assert room.pop(known(a=1), now=0.1) == ("a", 1)


@given(st.lists(st.sampled_from(["push", "pop", "wait"]), max_size=80), st.integers(1, 5), st.integers(0, 60))
def test_every_frame_is_accounted_for(actions: list[str], depth: int, max_bytes: int) -> None:
    room, drops = make(depth, max_bytes=max_bytes)
    now, pushed, popped = 0.0, 0, []
    for action in actions:
        if action == "push":
            room.push(str(pushed), SIZE, now)
            pushed += 1
        elif action == "wait":
            now += 0.3
        elif found := room.pop(lambda item, _: 1 if int(item) % 3 else None, now):
            popped.append(int(found[0]))
        assert len(room) <= max(max_bytes // SIZE, 1)
    assert popped == sorted(popped)
    assert pushed == len(popped) + drops.total + len(room)
