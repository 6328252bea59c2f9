"""A tree of frames over time in plain Python: what tf2's buffer does for this project, where tf2 is not installed."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Container
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
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
    """A child frame's transform to one of its parents: a constant, or samples by increasing stamp."""

    parent: str
    child: str
    static: bool
    stamps: list[float] = field(default_factory=list)
    matrices: list[np.ndarray] = field(default_factory=list)


class TransformBuffer:
    """Bounded history of transforms between named frames; lookups interpolate and never guess.

    Convention: ``parent_from_child`` matrices [4, 4] in metres; stamps in seconds. A leading ``/`` of a frame name is
    dropped, as tf2 does.

    A frame that is given another parent keeps what it had of the first, as in tf2: the past stays known. At each
    stamp it hangs from what it was last given, or else from a parent that has a transform then.

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
        self._edges: dict[str, dict[str, _Edge]] = {}  # by child, then by parent
        self._above: dict[str, dict[str, None]] = {}  # ancestors (keys, in order) by frame, until there is a new edge
        self._lock = Lock()

    def set_transform(
        self, parent: str, child: str, stamp: float, matrix_parent_from_child: np.ndarray, static: bool = False
    ) -> None:
        """Add a sample of ``parent_from_child`` [4, 4]; one at a stamp already held replaces it.

        A static transform holds at every time; its stamp is ignored.

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
            edges = self._edges.setdefault(child, {})
            edge = edges.get(parent)
            if edge is None or edge.static != static:
                if edge is None and edges:
                    _log.warning("frame %s has more than one parent: %s", child, ", ".join([*edges, parent]))
                edge = edges[parent] = _Edge(parent, child, static)
                self._above.clear()
            if static:
                edge.stamps, edge.matrices = [-math.inf], [matrix]
            else:
                self._insert(edge, stamp, matrix)

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
            above_source, above_target = self._ancestors(source), self._ancestors(target)
            if above_source.keys().isdisjoint(above_target):
                raise TransformError(self._not_connected(target, source))
            failures: list[TransformError] = []
            from_source = self._climb(source, stamp, above_target, failures)
            from_target = self._climb(target, stamp, above_source, failures)
            ancestor = next((frame for frame in from_source if frame in from_target), None)
            if ancestor is None:
                raise failures[0]
        return np.linalg.inv(from_target[ancestor]) @ from_source[ancestor]

    def clear(self) -> None:
        """Forget every sample of moving frames; static transforms, which are sent only once, stay."""
        with self._lock:
            kept = [edge for edges in self._edges.values() for edge in edges.values() if edge.static]
            self._edges = {}
            for edge in kept:
                self._edges.setdefault(edge.child, {})[edge.parent] = edge
            self._above.clear()

    def without_parents(self, frame: str) -> TransformBuffer:
        """A copy of this buffer that does not know where a frame is."""
        copy = TransformBuffer(self._history, self._tolerance, self._max_gap)
        with self._lock:
            for child, edges in self._edges.items():
                if child != _frame_name(frame):
                    copy._edges[child] = {
                        parent: replace(edge, stamps=[*edge.stamps], matrices=[*edge.matrices])
                        for parent, edge in edges.items()
                    }
        return copy

    def root(self, frame: str) -> str:
        """The topmost ancestor of a frame; the frame itself where it has no parent.

        Of several parents, here and below, the one with the most samples counts.

        Raises:
            TransformError: the parents form a loop.
        """
        with self._lock:
            return self._chain(_frame_name(frame))[-1]

    def ancestors(self, frame: str) -> tuple[str, ...]:
        """A frame, its parents, theirs and so on: all that it ever hung from, the nearest first.

        Raises:
            TransformError: the parents form a loop.
        """
        with self._lock:
            return tuple(self._ancestors(_frame_name(frame)))

    def fixed_frame(self, frame: str) -> str:
        """The lowest ancestor of a frame above which nothing moves; the frame's root where nothing moves at all.

        Raises:
            TransformError: the parents form a loop.
        """
        with self._lock:
            chain = self._chain(_frame_name(frame))
            moving = [child for child in chain[:-1] if not self._main_edge(child).static]
            return self._main_edge(moving[-1]).parent if moving else chain[-1]

    def static_root(self, frame: str) -> str:
        """The topmost ancestor of a frame that static transforms lead to; the frame itself where none does.

        Raises:
            TransformError: the parents form a loop.
        """
        with self._lock:
            chain = self._chain(_frame_name(frame))
            return next(f for f in chain if f == chain[-1] or not self._main_edge(f).static)

    def moves(self, frame: str) -> bool:
        """Whether a transform between a frame and its root is not static."""
        with self._lock:
            chain = self._chain(_frame_name(frame))
            return any(not self._main_edge(child).static for child in chain[:-1])

    def frames(self) -> tuple[str, ...]:
        """Names of all frames, sorted."""
        with self._lock:
            return tuple(sorted(self._known()))

    def _insert(self, edge: _Edge, stamp: float, matrix: np.ndarray) -> None:
        if edge.stamps and stamp < edge.stamps[-1] - self._history:
            _log.warning("%s: stamp goes back from %.3f to %.3f s: history dropped", edge.child, edge.stamps[-1], stamp)
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

    def _main_edge(self, child: str) -> _Edge:
        """To the parent with the most samples, or the latest; a static transform counts for more than any."""
        return max(self._edges[child].values(), key=lambda edge: (edge.static, len(edge.stamps), edge.stamps[-1]))

    def _chain(self, frame: str) -> list[str]:
        """The frame and its ancestors, nearest first, by way of the main parents."""
        self._ancestors(frame)  # refuses loops
        chain = [frame]
        while chain[-1] in self._edges:
            chain.append(self._main_edge(chain[-1]).parent)
        return chain

    def _ancestors(self, frame: str) -> dict[str, None]:
        if frame not in self._above:
            above = {frame: None}
            for child in (queue := [frame]):
                new = [parent for parent in self._edges.get(child, ()) if parent not in above]
                above.update(dict.fromkeys(new))
                queue += new
            try:
                TopologicalSorter({child: [*self._edges.get(child, ())] for child in above}).prepare()
            except CycleError as error:
                raise TransformError(f"frames form a loop: {' -> '.join(reversed(error.args[1]))}") from error
            self._above[frame] = above
        return self._above[frame]

    def _climb(
        self, frame: str, stamp: float, goals: Container[str], failures: list[TransformError]
    ) -> dict[str, np.ndarray]:
        """ancestor_from_frame at a stamp for the frame and its ancestors, nearest first, up to the first of goals."""
        reached = {frame: np.eye(4)}
        for child in (queue := [frame]):
            if child in goals:
                continue
            edges = list(self._edges.get(child, {}).values())
            if len(edges) > 1:  # the parent that was named last before the stamp goes first
                edges.sort(key=lambda edge: -_last_before(edge, stamp))
            for edge in edges:
                if edge.parent in reached:
                    continue
                try:
                    reached[edge.parent] = self._sample(edge, stamp) @ reached[child]
                    queue.append(edge.parent)
                except TransformError as error:
                    failures.append(error)
        return reached

    def _sample(self, edge: _Edge, stamp: float) -> np.ndarray:
        """parent_from_child at a stamp."""
        if edge.static:
            return edge.matrices[0]
        after = bisect_left(edge.stamps, stamp)
        if after < len(edge.stamps) and edge.stamps[after] == stamp:
            return edge.matrices[after]
        where = f"{edge.parent!r} from {edge.child!r} at {stamp:.6f} s"
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
        known = self._known()
        unknown = [frame for frame in (target, source) if frame not in known]
        if unknown:
            return f"unknown frame {', '.join(map(repr, unknown))}; known are: {', '.join(sorted(known)) or 'none'}"
        return f"frames {target!r} and {source!r} are not connected"

    def _known(self) -> set[str]:
        return set(self._edges).union(*self._edges.values())


def _last_before(edge: _Edge, stamp: float) -> float:
    place = bisect_right(edge.stamps, stamp)
    return edge.stamps[place - 1] if place else -math.inf


def _frame_name(name: str) -> str:
    return name.removeprefix("/")
