"""Stamps on their way through the library and back. Plain Python: no ROS in here."""

from __future__ import annotations

import threading
from collections import OrderedDict


class ExactStamps:
    """Nanoseconds of stamps by the float seconds that the library has them as. Safe to use from several threads.

    Seconds since 1970 are multiples of 238 ns in a float: rounded back, hardly any of them is the stamp it was, and
    nobody could match a result with its image. So what went in is remembered, and what was asked for last is kept.

    Args:
        kept: stamps remembered.
    """

    def __init__(self, kept: int = 10_000) -> None:
        if kept < 1:
            raise ValueError(f"kept {kept}: expected at least 1")
        self._kept = kept
        self._known: OrderedDict[float, int] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._known)

    def remember(self, seconds: float, nanoseconds: int) -> None:
        """A stamp in both forms."""
        with self._lock:
            self._known[seconds] = nanoseconds
            self._known.move_to_end(seconds)
            if len(self._known) > self._kept:
                self._known.popitem(last=False)

    def nanoseconds(self, seconds: float) -> int | None:
        """The stamp that went in as these seconds; None where it is not remembered."""
        with self._lock:
            found = self._known.get(seconds)
            if found is not None:
                self._known.move_to_end(seconds)
            return found
