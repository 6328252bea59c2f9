"""From messages to the map: each complete frame is decoded, checked and fused, or refused and counted by cause."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from chorus_core.frames import FrameError
from chorus_core.mapping.frame_gate import WHY
from chorus_core.pipeline import Pipeline
from chorus_ros import conversions
from chorus_ros.camera_input import CameraFrame
from chorus_ros.diagnostics import StreamMonitor
from chorus_ros.drops import Reject
from chorus_ros.input_health import DepthMonitor

_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (conversions.ImageError, "bad_image"),
    (FrameError, "bad_frame"),
    (conversions.MessageError, "bad_frame"),
    (Exception, "integration_failed"),  # out of memory, say: this frame is lost, the node is not
)
"""The cause a frame is counted under when its way into the map ends with such an error; the first that fits."""


class HeldBackError(ValueError):
    """A frame whose pose or depth cannot be right."""


class FrameIntegrator:
    """Feeds the pipeline and counts what came of it.

    Args:
        pipeline: whose map grows.
        reject: counts what is refused, by cause, and says why.
    """

    def __init__(self, pipeline: Pipeline, reject: Reject) -> None:
        self._pipeline = pipeline
        self._reject = reject
        self._lock = threading.Lock()
        self.frames = 0
        """Frames that came complete."""
        self.integrated = 0
        """Frames of those whose view is in the map: fused, or of a standstill that shows nothing new."""
        self.monitor = StreamMonitor("frames")
        self.depth_monitor = DepthMonitor()

    def integrate(self, messages: CameraFrame) -> None:
        """Fuse one frame, or refuse it."""
        with self._lock:
            self.frames += 1
            self.monitor.tick(time.monotonic())
            try:
                held = self._fuse(messages)
            except Exception as error:
                self._reject(next(cause for kind, cause in _CAUSES if isinstance(error, kind)), error)
                return
            if held in WHY:
                self._reject(held, HeldBackError(WHY[held]))
            else:
                self.integrated += 1

    def _fuse(self, messages: CameraFrame) -> str:
        """Why the frame was held back from the map; empty where it is in it."""
        frame = conversions.rgbd_frame(
            messages.color, messages.depth, messages.info, messages.map_from_camera, messages.rectified
        )
        self.depth_monitor.seen(frame, self._pipeline.config.map.depth_min, self._pipeline.config.map.depth_max)
        return self._pipeline.integrate(frame).held

    @contextmanager
    def between_frames(self) -> Iterator[None]:
        """No frame is integrated, and counted, while the block runs."""
        with self._lock:
            yield

    def restart(self) -> None:
        """Count from zero; call it between frames."""
        self.frames = self.integrated = 0
