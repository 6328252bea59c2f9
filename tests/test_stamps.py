"""Integer nanoseconds and seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.stamps import nanoseconds, seconds


@given(st.integers(-(10**12), 10**12))
def test_an_hour_goes_there_and_back(stamp: int) -> None:
    assert nanoseconds(seconds(stamp)) == stamp


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_time(value: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        nanoseconds(value)
