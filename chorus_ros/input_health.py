"""What is wrong with the inputs taken together, as diagnostics: frames that never pair, find no pose, hold no depth.

Times are seconds on a monotonic clock. All are safe to use from several threads: each attribute is written by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus

from chorus_core.frames import RgbdFrame
from chorus_core.stamps import seconds
from chorus_ros.diagnostics import make_status
from chorus_ros.pairing import Skew


class PairingMonitor:
    """Whether colour and depth come together.

    Args:
        tolerance: seconds between the stamps of a pair at most.
    """

    name = "pairing"

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._pairs = 0
        self._paired: float | None = None
        self._first: float | None = None
        self._skew: Skew | None = None

    def arrived(self, now: float, paired: bool, skew: Skew | None) -> None:
        """A message came, which completed a pair or did not."""
        self._skew = skew
        if self._first is None:
            self._first = now
        if paired:
            self._paired = now
            self._pairs += 1

    def status(self, now: float, patience: float) -> DiagnosticStatus:
        """WARN where messages were dropped for want of a partner and nothing has paired for ``patience`` seconds."""
        values = {"pairs": str(self._pairs)}
        skew, since = self._skew, self._paired if self._paired is not None else self._first
        if skew is None or since is None or now - since < patience:
            return make_status(self.name, DiagnosticStatus.OK, f"{self._pairs} pairs of colour and depth", values)
        message = (
            f"no frame has paired for {now - since:.0f} s: stamps of {skew.behind} lie "
            f"{seconds(skew.nanoseconds):.3f} s behind those of {skew.ahead} at the nearest, "
            f"sync.tolerance is {self._tolerance:g} s "
            "(images that arrive late need a larger sync.depth)"
        )
        return make_status(self.name, DiagnosticStatus.WARN, message, values)


@dataclass(frozen=True)
class _Loss:
    since: float
    frames: int
    what: str
    why: str


class PoseMonitor:
    """Whether frames find their poses, and since when they do not."""

    name = "poses"

    def __init__(self) -> None:
        self._found = 0
        self._last: float | None = None
        self._loss: _Loss | None = None

    def found(self, now: float) -> None:
        """A frame has its pose."""
        self._found += 1
        self._last = now
        self._loss = None

    def missed(self, arrived: float, what: str, why: str) -> None:
        """A frame that came at ``arrived`` went without one: ``what`` was missing, and what the last look-up said."""
        first = self._loss or _Loss(self._last if self._last is not None else arrived, 0, what, why)
        self._loss = _Loss(first.since, first.frames + 1, what, why)

    def status(self, now: float) -> DiagnosticStatus:
        """ERROR, because mapping stands still, from the first frame without a pose to the next one with one."""
        loss, values = self._loss, {"found": str(self._found)}
        if loss is None:
            return make_status(self.name, DiagnosticStatus.OK, f"{self._found} frames have found theirs", values)
        values["lost in a row"] = str(loss.frames)
        message = f"no {loss.what} since {now - loss.since:.0f} s, {loss.frames} frames lost: {loss.why}"
        return make_status(self.name, DiagnosticStatus.ERROR, message, values)


class DepthMonitor:
    """Whether depth images hold anything that the map can use.

    Args:
        patience: frames in a row without usable depth before it is said: a wall close by is no fault.
    """

    name = "usable depth"

    def __init__(self, patience: int = 10) -> None:
        self._patience = patience
        self._row = 0
        self._share = 0.0
        self._why = ""

    def seen(self, frame: RgbdFrame, near: float, far: float) -> None:
        """A frame came; depths between ``near`` and ``far`` metres are used."""
        depth = frame.depth  # [H, W]
        self._share = np.count_nonzero((depth > near) & (depth < far)) / depth.size
        if self._share > 0:
            self._row = 0
            return
        measured = depth[np.isfinite(depth) & (depth > 0)]
        self._why = (
            f"depths lie between {measured.min():.2f} and {measured.max():.2f} m, used are {near:g} to {far:g} m"
            if measured.size
            else "no pixel has a depth (all are zero or not finite)"
        )
        self._row += 1

    def status(self) -> DiagnosticStatus:
        """WARN after enough frames in a row without one usable pixel."""
        values = {"usable in the last frame (%)": f"{100 * self._share:.1f}"}
        if self._row < self._patience:
            return make_status(self.name, DiagnosticStatus.OK, "depth is usable", values)
        message = f"nothing usable in the last {self._row} depth images: {self._why}"
        return make_status(self.name, DiagnosticStatus.WARN, message, values)
