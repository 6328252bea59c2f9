"""Stamps are integer nanoseconds, as in ROS.

A float holds seconds since 1970 in steps of 238 ns: nobody could match a result with the image it came from.
"""

from __future__ import annotations

SECOND = 1_000_000_000


def nanoseconds(seconds: float) -> int:
    """The nearest stamp.

    Raises:
        OverflowError, ValueError: not finite.
    """
    return round(seconds * SECOND)


def seconds(nanoseconds: int) -> float:
    """A stamp, or the time between two, as seconds."""
    return nanoseconds / SECOND
