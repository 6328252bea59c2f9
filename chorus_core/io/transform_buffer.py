"""A tree of frames over time in plain Python: what tf2's buffer does for this project, where tf2 is not installed."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from chorus_core.frames import FrameError, check_rigid
from chorus_core.io.poses import interpolate

_log = logging.getLogger(__name__)

# Seconds since 1970 are multiples of 0.24 microseconds in a float: samples at exactly max_gap must not flicker.
_ROUNDING = 1e-6


class TransformError(LookupError):
    """A transform that cannot be given or taken. The message names frames and stamps."""


class TransformNotYetError(TransformError):
    """The stamp lies after the newest sample: the transform may come if asked again later."""


@dataclass
class _Edge:
    """A child frame's transform to its parent: a constant, or samples by increasing stamp."""

    parent: str
    static: bool
    stamps: list[float] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)


class TransformBuffer:
    """Bounded history of transforms between named frames; lookups interpolate and never guess.

    Convention: ``parent_from_child`` matrices [4, 4] in metres; stamps in seconds. A leading ``/`` of a frame name is
    dropped, as tf2 does.

    Out-of-order samples within ``history`` are put in their place. A stamp older than an edge's newest by more than
    ``history`` means that the clock was set back (a bag played again, a simulation reset): that edge starts over.
    Safe to call from several threads.
    """

    def __init__(self, history: float = 10.0, tolerance: float = 0.0, max_gap: float = math.inf) -> None:
        """
        Args:
            history: seconds kept behind the newest sample of each edge; ``math.inf`` keeps all.
            tolerance: seconds beyond the first or last sample of an edge for which that sample is still handed out.
            max_gap: seconds between two samples of a moving edge at most that are interpolated between; where poses
                were lost for longer, nobody knows the way in between.

        Raises:
            ValueError: history or max_gap not positive, or tolerance negative.
        """
        if not history > 0 or not tolerance >= 0 or not max_gap > 0:
            raise ValueError(
                f"history {history}, tolerance {tolerance}, max_gap {max_gap}: "
                "expected history > 0, tolerance >= 0 and max_gap > 0"
            )
        self._history = history
        self._tolerance = tolerance
        self._max_gap = max_gap
        self._edges: dict[str, _Edge] = {}
        self._lock = Lock()

    def set_transform(
        self, parent: str, child: str, stamp: float, matrix_parent_from_child: np.ndarray, static: bool = False
    ) -> None:
        """Add a sample of ``parent_from_child`` [4, 4]; one at a stamp already held replaces it.

        A static transform holds at every time; its stamp is ignored. A child has one parent: naming another one
        drops what was known of the first.

        Raises:
            TransformError: empty or equal frame names, a non-finite stamp, or a matrix that is not rigid.
        """
        parent, child = _frame_name(parent), _frame_name(child)
        if not parent or not child or parent == child:
            raise TransformError(f"transform from {child!r} to {parent!r}: expected two different frame names")
        if not static and not math.isfinite(stamp):
            raise TransformError(f"transform from {child!r} to {parent!r} at stamp {stamp}: expected finite seconds")
        try:
            matrix = check_rigid(matrix_parent_from_child, f"{parent}_from_{child}").copy()
        except FrameError as error:
            raise TransformError(str(error)) from error
        with self._lock:
            edge = self._edges.get(child)
            if edge is None or edge.parent != parent or edge.static != static:
                if edge is not None and edge.parent != parent:
                    _log.warning("frame %s changes its parent from %s to %s", child, edge.parent, parent)
                edge = self._edges[child] = _Edge(parent, static)
            if static:
                edge.stamps, edge.matrices = [-math.inf], [matrix]
            else:
                self._insert(edge, child, stamp, matrix)

    def lookup(self, target: str, source: str, stamp: float) -> np.ndarray:
        """``target_from_source``, float64 [4, 4], at ``stamp``; moving edges are interpolated (linear and slerp).

        Raises:
            TransformNotYetError: ``stamp`` is later than the newest sample of an edge on the way, by more than the
                tolerance.
            TransformError: a frame is unknown, the frames are not connected, the stamp is before what is held, or it
                lies in a gap wider than ``max_gap``.
        """
        target, source = _frame_name(target), _frame_name(source)
        if not math.isfinite(stamp):
            raise TransformError(f"lookup of {target!r} from {source!r} at stamp {stamp}: expected finite seconds")
        with self._lock:
            from_source, from_target = self._chain(source), self._chain(target)
            ancestor = next((frame for frame in from_source if frame in from_target), None)
            if ancestor is None:
                raise TransformError(self._not_connected(target, source))
            ancestor_from_source = self._compose(from_source, ancestor, stamp)
            ancestor_from_target = self._compose(from_target, ancestor, stamp)
        return np.linalg.inv(ancestor_from_target) @ ancestor_from_source

    def clear(self) -> None:
        """Forget every sample of moving frames; static transforms, which are sent only once, stay."""
        with self._lock:
            self._edges = {child: edge for child, edge in self._edges.items() if edge.static}

    def root(self, frame: str) -> str:
        """The topmost ancestor of a frame; the frame itself where it has no parent.

        Raises:
            TransformError: the parents form a loop.
        """
        with self._lock:
            return self._chain(_frame_name(frame))[-1]

    def static_root(self, frame: str) -> str:
        """The topmost ancestor of a frame that static transforms lead to; the frame itself where none does.

        Raises:
            TransformError: the parents form a loop.
        """
        with self._lock:
            chain = self._chain(_frame_name(frame))
            return next(f for f in chain if (edge := self._edges.get(f)) is None or not edge.static)

    def moves(self, frame: str) -> bool:
        """Whether a transform between a frame and its root is not static."""
        with self._lock:
            chain = self._chain(_frame_name(frame))
            return any(not self._edges[child].static for child in chain[:-1])

    def frames(self) -> tuple[str, ...]:
        """Names of all frames, sorted."""
        with self._lock:
            return tuple(sorted(set(self._edges) | {edge.parent for edge in self._edges.values()}))

    def _insert(self, edge: _Edge, child: str, stamp: float, matrix: np.ndarray) -> None:
        if edge.stamps and stamp < edge.stamps[-1] - self._history:
            _log.warning("%s: stamp goes back from %.3f to %.3f s: history dropped", child, edge.stamps[-1], stamp)
            edge.stamps.clear()
            edge.matrices.clear()
        place = bisect_left(edge.stamps, stamp)
        if place < len(edge.stamps) and edge.stamps[place] == stamp:
            edge.matrices[place] = matrix
            return
        edge.stamps.insert(place, stamp)
        edge.matrices.insert(place, matrix)
        expired = bisect_left(edge.stamps, edge.stamps[-1] - self._history)
        if expired:
            del edge.stamps[:expired]
            del edge.matrices[:expired]

    def _chain(self, frame: str) -> list[str]:
        """The frame and its ancestors, nearest first."""
        chain = [frame]
        while (edge := self._edges.get(chain[-1])) is not None:
            if edge.parent in chain:
                raise TransformError(f"frames form a loop: {' -> '.join([*chain, edge.parent])}")
            chain.append(edge.parent)
        return chain

    def _compose(self, chain: list[str], ancestor: str, stamp: float) -> np.ndarray:
        """ancestor_from_frame for the first frame of a chain."""
        ancestor_from_frame = np.eye(4)
        for child in chain[: chain.index(ancestor)]:
            ancestor_from_frame = self._sample(child, stamp) @ ancestor_from_frame
        return ancestor_from_frame

    def _sample(self, child: str, stamp: float) -> np.ndarray:
        """parent_from_child at a stamp."""
        edge = self._edges[child]
        if edge.static:
            return edge.matrices[0]
        after = bisect_left(edge.stamps, stamp)
        if after < len(edge.stamps) and edge.stamps[after] == stamp:
            return edge.matrices[after]
        where = f"{edge.parent!r} from {child!r} at {stamp:.6f} s"
        if 0 < after < len(edge.stamps):
            first, last = edge.stamps[after - 1], edge.stamps[after]
            if last - first > self._max_gap + _ROUNDING:
                raise TransformError(
                    f"no {where}: its samples at {first:.6f} s and {last:.6f} s are {last - first:.3f} s apart, "
                    f"expected at most {self._max_gap:g} s"
                )
            return interpolate(first, edge.matrices[after - 1], last, edge.matrices[after], stamp)
        if after == len(edge.stamps):
            if stamp - edge.stamps[-1] <= self._tolerance:
                return edge.matrices[-1]
            late = stamp - edge.stamps[-1]
            raise TransformNotYetError(f"no {where}: {late:.3f} s after the newest sample, at {edge.stamps[-1]:.6f} s")
        if edge.stamps[0] - stamp <= self._tolerance:
            return edge.matrices[0]
        early = edge.stamps[0] - stamp
        raise TransformError(f"no {where}: {early:.3f} s before the oldest sample, at {edge.stamps[0]:.6f} s")

    def _not_connected(self, target: str, source: str) -> str:
        known = set(self._edges) | {edge.parent for edge in self._edges.values()}
        unknown = [frame for frame in (target, source) if frame not in known]
        if unknown:
            return f"unknown frame {', '.join(map(repr, unknown))}; known are: {', '.join(sorted(known)) or 'none'}"
        return f"frames {target!r} and {source!r} are not connected"


def _frame_name(name: str) -> str:
    return name.removeprefix("/")
