"""Pairing by time, on streams as cameras and broken drivers send them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chorus_ros.drops import DropCounter
from chorus_ros.pairing import ApproximatePairing, Skew

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


def test_skew_is_the_least_distance_of_what_never_pairs() -> None:
    """Both at 30 Hz, half a period apart: 16 ms one way, 17 the other, with a tolerance of 10."""
    drops = DropCounter()
    pairing: ApproximatePairing[int] = ApproximatePairing(("color", "depth"), 10 * MS, 20, drops)
    for i in range(60):
        assert pairing.add("color", 33 * MS * i, i) is None
        assert pairing.add("depth", 33 * MS * i + 346 * MS, i) is None
    assert pairing.skew == Skew("color", "depth", 16 * MS)
    pairing.add("color", 5000 * MS, 0)
    assert pairing.add("depth", 5000 * MS, 0) == (0, 0)
    assert pairing.skew is None


def test_skew_of_clocks_that_differ() -> None:
    drops = DropCounter()
    pairing: ApproximatePairing[int] = ApproximatePairing(("color", "depth"), 10 * MS, 5, drops)
    for i in range(60):
        pairing.add("color", 33 * MS * i, i)
        pairing.add("depth", 33 * MS * i + 3_600_000 * MS, i)
    assert pairing.skew is not None
    assert (pairing.skew.behind, pairing.skew.ahead) == ("color", "depth")
    assert abs(pairing.skew.nanoseconds - 3_600_000 * MS) < 2_000 * MS


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
