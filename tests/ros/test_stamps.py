"""Stamps come back as they went in, though the library has them as float seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_ros import conversions
from chorus_ros.stamps import ExactStamps

FRAME = 33_333_333
TODAY = 1_750_000_000_123_456_789


@given(st.integers(0, 2**31 * 10**9 - 1))
def test_any_stamp_comes_back(nanoseconds: int) -> None:
    stamps = ExactStamps()
    stamps.remember(nanoseconds * 1e-9, nanoseconds)
    assert stamps.nanoseconds(nanoseconds * 1e-9) == nanoseconds
    message = conversions.exact_time_message(nanoseconds)
    assert conversions.nanoseconds(message) == nanoseconds


def test_a_stream_of_wall_clock_stamps_comes_back() -> None:
    stamps = ExactStamps()
    stream = [TODAY + FRAME * i for i in range(2000)]
    for stamp in stream:
        stamps.remember(stamp * 1e-9, stamp)
    assert [stamps.nanoseconds(stamp * 1e-9) for stamp in stream] == stream
    rounded = [conversions.nanoseconds(conversions.time_message(stamp * 1e-9)) for stamp in stream]
    assert sum(a != b for a, b in zip(rounded, stream, strict=True)) > 1900  # what it is needed for


def test_memory_is_bounded_and_what_is_asked_for_stays() -> None:
    stamps = ExactStamps(kept=10)
    stamps.remember(TODAY * 1e-9, TODAY)
    for i in range(1, 1000):
        stamps.remember((TODAY + FRAME * i) * 1e-9, TODAY + FRAME * i)
        assert stamps.nanoseconds(TODAY * 1e-9) == TODAY
    assert len(stamps) == 10
    assert stamps.nanoseconds((TODAY + FRAME) * 1e-9) is None


def test_unknown_stamps_have_no_answer() -> None:
    assert ExactStamps().nanoseconds(0.0) is None
    with pytest.raises(ValueError, match="kept 0"):
        ExactStamps(kept=0)
