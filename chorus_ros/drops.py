"""What was dropped, counted by cause: one place for messages, frames and poses alike."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

_WARNING_PERIOD = 5.0  # seconds between warnings of one cause

Reject = Callable[[str, Exception], None]
"""Called with a cause and the error of what cannot be used."""


class DropCounter:
    """How much was dropped, by cause. Safe to use from several threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, cause: str, count: int = 1) -> None:
        with self._lock:
            self._counts[cause] += count

    def counts(self) -> dict[str, int]:
        """A copy, by cause in alphabetical order."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def clear(self) -> None:
        with self._lock:
            self._counts.clear()

    @property
    def total(self) -> int:
        with self._lock:
            return sum(self._counts.values())


class DropLog:
    """Counts a drop and says why, at most every few seconds for each cause.

    Args:
        counts: where drops are counted.
        logger: of the node.
    """

    def __init__(self, counts: DropCounter, logger: Any) -> None:
        self._counts = counts
        self._logger = logger
        self._warned: dict[str, float] = {}

    def reject(self, cause: str, error: Exception) -> None:
        self._counts.add(cause)
        now = time.monotonic()
        if now - self._warned.get(cause, -_WARNING_PERIOD) >= _WARNING_PERIOD:
            self._warned[cause] = now
            self._logger.warning(f"dropped ({cause}): {error}")
