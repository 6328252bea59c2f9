"""Frames between their arrival and their integration. Plain Python: no ROS in here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from chorus_ros.drops import DropCounter

T = TypeVar("T")
P = TypeVar("P")


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    item: T
    size: int  # bytes
    since: float  # seconds on the caller's monotonic clock


class WaitingRoom(Generic[T, P]):
    """Frames that wait for their pose, then for their turn. Safe to use from several threads.

    The two waits have bounds of their own, because they have different reasons. A pose is as late as its source is,
    however fast the camera: frames without one are bounded by time. Frames with one pile up when integration is slower
    than the camera: they are bounded in number, but not before the time is up in which a pose may come, because a
    source slower than the camera gives many frames theirs at once. Bytes bound both.

    Causes counted (the oldest leaves): ``overflow_waiting`` and ``overflow_frame`` for a frame without and with a pose,
    and whatever ``expired`` names when the wait for a pose was over.

    Args:
        timeout: seconds a frame waits for its pose at most.
        max_bytes: bytes of all frames at most; the newest frame may always wait.
        depth: frames with a pose at most that came longer ago than ``timeout``.
        drops: where drops are counted.
        expired: given a frame whose wait was over and the time it came; names the cause.
    """

    def __init__(
        self, timeout: float, max_bytes: int, depth: int, drops: DropCounter, expired: Callable[[T, float], str]
    ) -> None:
        if depth < 1 or timeout < 0 or max_bytes < 0:
            raise ValueError(f"timeout {timeout}, max_bytes {max_bytes}, depth {depth}: expected >= 0, >= 0, >= 1")
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._depth = depth
        self._drops = drops
        self._expired = expired
        self._waiting: deque[_Waiting[T]] = deque()
        self._ready: deque[tuple[_Waiting[T], P]] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting) + len(self._ready)

    def push(self, item: T, size: int, now: float) -> None:
        """Let a frame of ``size`` bytes in; ``now`` is in seconds on any monotonic clock, the same for all calls."""
        with self._lock:
            self._waiting.append(_Waiting(item, size, now))
            self._bytes += size
            while self._bytes > self._max_bytes and self._ready:
                self._drop_ready()
            while self._bytes > self._max_bytes and len(self._waiting) > 1:
                self._bytes -= self._waiting.popleft().size
                self._drops.add("overflow_waiting")

    def pop(self, find: Callable[[T, float], P | None], now: float) -> tuple[T, P] | None:
        """The oldest frame with a pose, and that pose.

        Args:
            find: the pose of a frame that has waited so many seconds, or None; called without a lock held.
            now: see :meth:`push`.
        """
        self._settle(find, now)
        with self._lock:
            while len(self._ready) > self._depth and now - self._ready[0][0].since > self._timeout:
                self._drop_ready()
            if not self._ready:
                return None
            entry, found = self._ready.popleft()
            self._bytes -= entry.size
            return entry.item, found

    def clear(self, cause: str) -> None:
        """Let everything go and count it under ``cause``."""
        with self._lock:
            count = len(self._waiting) + len(self._ready)
            self._waiting.clear()
            self._ready.clear()
            self._bytes = 0
        if count:
            self._drops.add(cause, count)

    def _settle(self, find: Callable[[T, float], P | None], now: float) -> None:
        """Move frames whose pose is known by now on; let those go that waited too long."""
        with self._lock:
            waiting = tuple(self._waiting)
        for entry in waiting:
            found = find(entry.item, now - entry.since)
            if found is None and now - entry.since <= self._timeout:
                continue
            with self._lock:
                if not self._take(entry):
                    continue
                if found is not None:
                    self._ready.append((entry, found))
                    continue
                self._bytes -= entry.size
            self._drops.add(self._expired(entry.item, entry.since))

    def _drop_ready(self) -> None:
        self._bytes -= self._ready.popleft()[0].size
        self._drops.add("overflow_frame")

    def _take(self, entry: _Waiting[T]) -> bool:
        """Whether the entry was still waiting: another thread may have pushed it out meanwhile."""
        for index, candidate in enumerate(self._waiting):
            if candidate is entry:
                del self._waiting[index]
                return True
        return False
