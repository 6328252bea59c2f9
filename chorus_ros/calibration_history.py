"""Which camera info holds for a frame. Plain Python: messages are duck-typed."""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import Any

_KEPT = 64
"""Different calibrations remembered: a camera that zooms has a new one for each frame."""


class CalibrationHistory:
    """The calibrations of one camera over time; each holds until a different one comes. Safe for several threads.

    A driver may send camera info with every image, now and then, or once. So frames are not paired with infos: a
    frame takes the calibration that holds at its stamp. Where infos come with the images, it waits shortly for its own,
    which may differ; after one wait in vain none waits again until infos come along.

    Args:
        tolerance: nanoseconds between a frame and the info that belongs to it at most.
        patience: seconds a frame waits for its own info at most.
    """

    def __init__(self, tolerance: int, patience: float) -> None:
        self._tolerance = tolerance
        self._patience = patience
        self._asked = 0  # newest stamp of a frame
        self._along = True  # whether infos come with the frames
        self._since: list[int] = []  # stamps from which each calibration holds, ascending
        self._infos: list[Any] = []
        self._newest: int | None = None
        self._lock = threading.Lock()

    @property
    def known(self) -> bool:
        """Whether any info has come."""
        return self._newest is not None

    def add(self, stamp: int, info: Any) -> None:
        """Take an info with its stamp in nanoseconds."""
        with self._lock:
            self._newest = stamp if self._newest is None else max(stamp, self._newest)
            self._along = self._along or stamp >= self._asked - self._tolerance
            place = bisect_right(self._since, stamp)
            if place and _calibration(self._infos[place - 1]) == _calibration(info):
                return
            self._since.insert(place, stamp)
            self._infos.insert(place, info)
            del self._since[:-_KEPT], self._infos[:-_KEPT]

    def at(self, stamp: int, waited: float) -> Any | None:
        """The info that holds at a stamp; None while none is known, or while the frame's own may be on its way.

        Args:
            stamp: of the frame, nanoseconds.
            waited: seconds the frame has waited so far.
        """
        with self._lock:
            if self._newest is None:
                return None
            self._asked = max(stamp, self._asked)
            if self._along and stamp - self._tolerance > self._newest:
                if waited < self._patience:
                    return None
                self._along = False
            place = bisect_right(self._since, stamp + self._tolerance)
            return self._infos[max(place - 1, 0)]

    def restart(self) -> None:
        """Time was set back: what came last holds from the beginning."""
        with self._lock:
            if self._newest is not None:
                self._newest = self._asked = 0
                self._since, self._infos = [0], self._infos[-1:]


def _calibration(info: Any) -> tuple[Any, ...]:
    """All of an info but its header, in a form that compares; NaN equals itself here."""
    roi = info.roi
    return (
        *(info.width, info.height, info.distortion_model, info.binning_x, info.binning_y),
        *(roi.x_offset, roi.y_offset, roi.width, roi.height, roi.do_rectify),
        *(bytes(memoryview(values)) for values in (info.k, info.p, info.r, info.d)),
    )
