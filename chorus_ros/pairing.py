"""Bringing the streams of one camera together by time, with bounded memory. Plain Python: no ROS in here.

Stamps are integer nanoseconds, so that equal stamps are equal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from chorus_ros.drops import DropCounter

T = TypeVar("T")


@dataclass(frozen=True)
class Skew:
    """How far two streams lie apart where they do not pair: ``behind`` is older than ``ahead`` by ``nanoseconds``."""

    behind: str
    ahead: str
    nanoseconds: int


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
        self.skew: Skew | None = None
        """The least distance of messages that were dropped for want of a partner, since the last tuple."""

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
            ahead, newest = max(stamps.items(), key=lambda item: item[1])
            if newest - min(stamps.values()) <= self._tolerance:
                self.skew = None
                return tuple(self._waiting[name].popleft()[1] for name in self._streams)
            for name, stamp in stamps.items():
                # The other streams are past this one, and only go on.
                if (distance := newest - stamp) > self._tolerance:
                    self._waiting[name].popleft()
                    self._drops.add(f"unpaired_{name}")
                    if self.skew is None or distance < self.skew.nanoseconds:
                        self.skew = Skew(name, ahead, distance)
        return None
