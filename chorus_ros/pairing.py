"""Bringing the streams of one camera together by time, with bounded memory. Plain Python: no ROS in here.

Stamps are integer nanoseconds, so that equal stamps are equal.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P")


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


class ApproximatePairing(Generic[T]):
    """Tuples of messages, one from each stream, whose stamps lie within a tolerance of each other.

    Of each stream at most ``depth`` messages wait; each message is used at most once, and tuples come out in the order
    of time. What cannot be paired any more is dropped and counted: ``unpaired_<stream>`` when the other streams have
    moved on, ``overflow_<stream>`` when the queue was full, ``duplicate_<stream>`` for a repeated stamp and
    ``late_<stream>`` for one slightly older than its predecessor. A stamp more than ``jump`` older than its predecessor
    means that time itself was set back (a bag that loops, a simulation that restarts): everything that waits is
    dropped, counted as ``time_jump``, and pairing starts anew from that message.

    Args:
        streams: names, in the order of the tuples.
        tolerance: nanoseconds between the oldest and the newest stamp of a tuple at most.
        depth: messages that wait per stream at most.
        drops: where drops are counted.
        jump: nanoseconds a stamp must fall behind to count as a time jump.
    """

    def __init__(
        self, streams: Sequence[str], tolerance: int, depth: int, drops: DropCounter, jump: int = 1_000_000_000
    ) -> None:
        if tolerance < 0 or depth < 1 or not streams:
            raise ValueError(f"streams {streams!r}, tolerance {tolerance}, depth {depth}: expected some, >= 0, >= 1")
        self._streams = tuple(streams)
        self._tolerance = tolerance
        self._depth = depth
        self._drops = drops
        self._jump = jump
        self._waiting: dict[str, deque[tuple[int, T]]] = {name: deque() for name in self._streams}
        self._newest: dict[str, int] = {}
        self.jumps = 0
        """Time jumps seen so far."""

    def add(self, stream: str, stamp: int, message: T) -> tuple[T, ...] | None:
        """Take one message; the tuple it completes, if it completes one."""
        newest = self._newest.get(stream)
        if newest is not None and stamp <= newest:
            if newest - stamp > self._jump:
                self._restart()
            else:
                self._drops.add(f"duplicate_{stream}" if stamp == newest else f"late_{stream}")
                return None
        self._newest[stream] = stamp
        queue = self._waiting[stream]
        queue.append((stamp, message))
        found = self._match()
        if len(queue) > self._depth:
            queue.popleft()
            self._drops.add(f"overflow_{stream}")
        return found

    def waiting(self) -> int:
        """Messages that wait for their partners."""
        return sum(map(len, self._waiting.values()))

    def _restart(self) -> None:
        self._drops.add("time_jump", self.waiting())
        self.jumps += 1
        self._newest.clear()
        for queue in self._waiting.values():
            queue.clear()

    def _match(self) -> tuple[T, ...] | None:
        while all(self._waiting.values()):
            pivot = max(queue[0][0] for queue in self._waiting.values())
            for name, queue in self._waiting.items():
                # A successor that is no farther from the pivot is the better partner.
                while len(queue) > 1 and abs(queue[1][0] - pivot) <= abs(queue[0][0] - pivot):
                    queue.popleft()
                    self._drops.add(f"unpaired_{name}")
            stamps = {name: queue[0][0] for name, queue in self._waiting.items()}
            newest = max(stamps.values())
            if newest - min(stamps.values()) <= self._tolerance:
                return tuple(self._waiting[name].popleft()[1] for name in self._streams)
            for name, stamp in stamps.items():
                # The other streams are past this one, and only go on.
                if newest - stamp > self._tolerance:
                    self._waiting[name].popleft()
                    self._drops.add(f"unpaired_{name}")
        return None


@dataclass(frozen=True)
class _Waiting(Generic[T]):
    item: T
    since: float  # seconds on the caller's monotonic clock


class WaitingRoom(Generic[T]):
    """Frames that wait for their pose: bounded in number and in time. Safe to use from several threads.

    Causes counted: ``overflow_frame`` when the room was full (the oldest leaves), ``no_pose`` when the wait was over.

    Args:
        depth: frames that wait at most.
        timeout: seconds a frame waits at most.
        drops: where drops are counted.
    """

    def __init__(self, depth: int, timeout: float, drops: DropCounter) -> None:
        if depth < 1 or timeout < 0:
            raise ValueError(f"depth {depth}, timeout {timeout}: expected >= 1 and >= 0")
        self._depth = depth
        self._timeout = timeout
        self._drops = drops
        self._queue: deque[_Waiting[T]] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._queue)

    def push(self, item: T, now: float) -> None:
        """Let a frame in; ``now`` is in seconds on any monotonic clock, the same for all calls."""
        with self._lock:
            self._queue.append(_Waiting(item, now))
            overflow = len(self._queue) - self._depth
            for _ in range(overflow):
                self._queue.popleft()
        if overflow > 0:
            self._drops.add("overflow_frame", overflow)

    def pop(self, find: Callable[[T], P | None], now: float) -> tuple[T, P] | None:
        """The oldest frame whose pose ``find`` knows, with that pose; frames that waited too long leave."""
        with self._lock:
            waiting = tuple(self._queue)
        for entry in waiting:
            found = find(entry.item)
            if found is not None:
                if self._remove(entry):
                    return entry.item, found
            elif now - entry.since > self._timeout and self._remove(entry):
                self._drops.add("no_pose")
        return None

    def clear(self, cause: str) -> None:
        """Let everything go and count it under ``cause``."""
        with self._lock:
            count = len(self._queue)
            self._queue.clear()
        if count:
            self._drops.add(cause, count)

    def _remove(self, entry: Any) -> bool:
        """Whether the entry was still there: another thread may have pushed it out meanwhile."""
        with self._lock:
            for index, candidate in enumerate(self._queue):
                if candidate is entry:
                    del self._queue[index]
                    return True
        return False
