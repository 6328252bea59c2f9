"""What the log tells a user whose map does not grow, or grows crooked. Each thing is said now and then, not always."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CameraInfo

from chorus_core.pipeline import PipelineStatus

_PERIOD = 10.0  # seconds


@dataclass(frozen=True)
class Input:
    """A subscription: the topic's name after remapping, the message type, and the image transport."""

    topic: str
    kind: str
    transport: str


class Advice:
    """Warnings about inputs and encoding.

    Args:
        logger: of the node.
        started: when the node began to listen, seconds on a monotonic clock.
        patience: seconds without input after which it is missed.
    """

    def __init__(self, logger: Any, started: float, patience: float) -> None:
        self._logger = logger
        self._started = started
        self._patience = patience
        self._failures = 0
        self._said: dict[str, float] = {}

    def geometry(self, color: Any, depth: Any, info: CameraInfo, rectified: bool) -> None:
        """What would make a crooked map, though the messages do not show it for certain."""
        if not rectified and np.any(info.d):
            self._logger.warning("the images have lens distortion, which is not removed: rectify", once=True)
        color_frame, depth_frame = (m.header.frame_id.removeprefix("/") for m in (color, depth))
        if color_frame and depth_frame and color_frame != depth_frame:
            self._logger.warning(
                f"colour is in frame {color_frame!r}, depth in {depth_frame!r}: depth must be registered to colour; "
                "it is taken as if it were",
                once=True,
            )

    def silence(self, inputs: Sequence[Input], now: float, publishers: Callable[[str], int]) -> None:
        """Inputs on which nothing has arrived since the start."""
        waited = now - self._started
        if inputs and waited >= self._patience:
            silent = [f"{i.topic} ({i.kind}, {i.transport}, publishers {publishers(i.topic)})" for i in inputs]
            self._logger.warning(
                f"nothing has arrived in the {waited:.0f} s since the start on {', '.join(silent)}",
                throttle_duration_sec=_PERIOD,
            )

    def health(self, statuses: Sequence[DiagnosticStatus], now: float) -> None:
        """What diagnostics say of the inputs: trouble at once and then now and then, and its end."""
        for status in statuses:
            said = self._said.get(status.name)
            if status.level == DiagnosticStatus.OK:
                if said is not None:
                    del self._said[status.name]
                    self._logger.info(f"{status.name}: well again")
            elif said is None or now - said >= _PERIOD:
                self._said[status.name] = now
                self._logger.warning(f"{status.name}: {status.message}")

    def failures(self, status: PipelineStatus) -> None:
        """Encodes that failed since the last call, and a thread that ended."""
        if status.ended:
            self._logger.error(f"the encoding thread ended: {status.ended}; start the node again", once=True)
        if status.encode_failures > self._failures:
            reason = status.last_error or "the one after went well"
            self._logger.warning(f"encoding failed, {status.encode_failures} times so far: {reason}")
        self._failures = status.encode_failures
