"""Pairing by time, on streams as cameras and broken drivers send them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chorus_ros.pairing import ApproximatePairing, DropCounter, WaitingRoom

MS = 1_000_000
STREAMS = ("color", "depth", "info")


def make(tolerance: int = 10 * MS, depth: int = 5) -> tuple[ApproximatePairing[int], DropCounter]:
    drops = DropCounter()
    return ApproximatePairing(STREAMS, tolerance, depth, drops), drops


def test_synchronous_streams_lose_nothing() -> None:
    pairing, drops = make(tolerance=0)
    found = [pairing.add(s, 33 * MS * i, 33 * MS * i) for i in range(50) for s in STREAMS]
    assert [f for f in found if f] == [(33 * MS * i,) * 3 for i in range(50)]
    assert drops.total == 0


def test_order_of_streams_within_a_frame_does_not_matter() -> None:
    pairing, _ = make()
    assert pairing.add("info", 5 * MS, 3) is None
    assert pairing.add("depth", 4 * MS, 2) is None
    assert pairing.add("color", 0, 1) == (1, 2, 3)


def test_nearer_successor_is_the_better_partner() -> None:
    pairing, drops = make(tolerance=20 * MS)
    pairing.add("color", 0, 0)
    pairing.add("color", 15 * MS, 1)
    pairing.add("depth", 16 * MS, 2)
    assert pairing.add("info", 16 * MS, 3) == (1, 2, 3)
    assert drops.counts() == {"unpaired_color": 1}


def test_silent_stream_fills_only_its_partners_queues() -> None:
    pairing, drops = make(depth=5)
    for i in range(100):
        pairing.add("color", i * 33 * MS, i)
    assert pairing.waiting() == 5
    assert drops.counts() == {"overflow_color": 95}


def test_duplicate_and_late_stamps_are_counted() -> None:
    pairing, drops = make()
    pairing.add("color", 100 * MS, 0)
    pairing.add("color", 100 * MS, 1)
    pairing.add("color", 60 * MS, 2)
    assert drops.counts() == {"duplicate_color": 1, "late_color": 1}


def test_time_set_back_starts_anew() -> None:
    pairing, drops = make()
    for s in STREAMS[:2]:
        pairing.add(s, 100_000 * MS, 0)
    assert pairing.add("color", 5 * MS, 1) is None
    assert (pairing.jumps, pairing.waiting()) == (1, 1)
    assert drops.counts() == {"time_jump": 2}
    pairing.add("depth", 5 * MS, 2)
    assert pairing.add("info", 5 * MS, 3) == (1, 2, 3)
    assert pairing.jumps == 1


events = st.lists(st.tuples(st.sampled_from(STREAMS), st.integers(0, 3_000)), max_size=200)


@given(events, st.integers(0, 50), st.integers(1, 6))
def test_invariants_on_any_input(sequence: list[tuple[str, int]], tolerance: int, depth: int) -> None:
    """Tolerance holds, order holds, nothing is used twice, memory is bounded, and every message is accounted for."""
    pairing, drops = make(tolerance * MS, depth)
    used: list[tuple[int, ...]] = []
    newest: tuple[int, ...] | None = None
    for number, (stream, stamp) in enumerate(sequence):
        jumps = pairing.jumps
        found = pairing.add(stream, stamp * MS, number)
        if pairing.jumps != jumps:
            newest = None
        assert pairing.waiting() <= depth * len(STREAMS)
        if found is None:
            continue
        assert tuple(sequence[i][0] for i in found) == STREAMS
        stamps = tuple(sequence[i][1] for i in found)
        assert max(stamps) - min(stamps) <= tolerance
        assert newest is None or all(a < b for a, b in zip(newest, stamps, strict=True))
        newest = stamps
        used.append(found)
    flat = [i for found in used for i in found]
    assert len(flat) == len(set(flat))
    assert len(sequence) == len(flat) + drops.total + pairing.waiting()


@given(st.integers(1, 60), st.integers(0, 14), st.randoms(use_true_random=False))
def test_jittered_streams_lose_nothing(count: int, jitter: int, random: object) -> None:
    """33 ms apart with less jitter than the tolerance: each frame comes out whole."""
    pairing, drops = make(tolerance=15 * MS)
    messages = [(s, 33 * i + random.randint(0, jitter), i) for i in range(count) for s in STREAMS]
    found = [f for s, t, i in messages if (f := pairing.add(s, t * MS, i))]
    assert found == [(i,) * 3 for i in range(count)]
    assert drops.total == 0


def test_waiting_room_hands_out_in_order_and_gives_up_in_time() -> None:
    drops = DropCounter()
    room: WaitingRoom[str] = WaitingRoom(3, 0.5, drops)
    for i, name in enumerate("abcd"):
        room.push(name, now=i * 0.1)
    assert len(room) == 3  # a was pushed out
    known = {"c": 1}
    assert room.pop(known.get, now=0.4) == ("c", 1)
    assert room.pop(known.get, now=0.4) is None
    assert room.pop(known.get, now=0.7) is None  # b has waited 0.6 s; d 0.4 s
    assert len(room) == 1
    assert drops.counts() == {"no_pose": 1, "overflow_frame": 1}
    room.clear("reset")
    assert drops.counts()["reset"] == 1


@given(st.lists(st.sampled_from(["push", "pop", "wait"]), max_size=80), st.integers(1, 5))
def test_waiting_room_accounts_for_every_frame(actions: list[str], depth: int) -> None:
    drops = DropCounter()
    room: WaitingRoom[int] = WaitingRoom(depth, 0.5, drops)
    now, pushed, popped = 0.0, 0, []
    for action in actions:
        if action == "push":
            room.push(pushed, now)
            pushed += 1
        elif action == "wait":
            now += 0.3
            assert room.pop(lambda _: None, now) is None
        elif found := room.pop(lambda item: item, now):
            popped.append(found[0])
        assert len(room) <= depth
    assert popped == sorted(popped)
    assert pushed == len(popped) + drops.total + len(room)
