"""Frames that add nothing: the camera stands still, and what it sees is what it saw."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from chorus_core.config import GateConfig
from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_core.mapping.geometry import motion_between
from chorus_core.stamps import seconds

_COLUMNS = 160
# A sample has changed where it leaves the range of its neighbourhood before, by this much in a channel, or in depth by
# more than noise, which grows with its square.
_COLOR_STEP = 25
_DEPTH_STEP, _DEPTH_STEP_PER_SQUARE = 0.03, 0.02
# Share of the samples that make a change: less than a mug two metres away.
_CHANGED_SHARE = 0.0005
_NONE = np.float32(1e6)  # depth where there is none, in a minimum


@dataclass(frozen=True)
class _Sampled:
    """A frame at every few pixels: colour uint8 [h, w, 3], depth metres [h, w]."""

    color: np.ndarray
    depth: np.ndarray
    intrinsics: CameraIntrinsics
    world_from_camera: np.ndarray
    stamp: int

    @classmethod
    def of(cls, frame: RgbdFrame) -> _Sampled:
        step = max(frame.intrinsics.width // _COLUMNS, 1)
        color, depth = (np.ascontiguousarray(image[::step, ::step]) for image in (frame.color, frame.depth))
        return cls(color, depth, frame.intrinsics, frame.world_from_camera, frame.stamp)

    def is_in(self, before: _Sampled) -> bool:
        """Whether colour and depth are as before, but for noise. Depth that comes and goes is noise, too."""
        ring = np.ones((3, 3), np.uint8)  # edges flicker by a pixel
        low, high = cv2.erode(before.color, ring), cv2.dilate(before.color, ring)
        color = np.maximum(cv2.subtract(low, self.color), cv2.subtract(self.color, high)).max(axis=-1) > _COLOR_STEP
        low, high = cv2.erode(np.where(before.depth > 0, before.depth, _NONE), ring), cv2.dilate(before.depth, ring)
        step = _DEPTH_STEP + _DEPTH_STEP_PER_SQUARE * self.depth**2
        depth = (self.depth > 0) & (high > 0) & ((self.depth < low - step) | (self.depth > high + step))
        return bool((color | depth).mean() <= _CHANGED_SHARE)


class Stillness:
    """Tells the frames of a standstill that can be left out.

    The first frames of a standstill are wanted, so that the map settles and what has just left is carved; and so is
    one every ``still_period`` seconds. A change in the view begins anew, and so does a move since the last frame that
    was fused: creeping adds up.

    Args:
        config: ``still_frames`` (0 wants every frame), ``still_motion``, ``still_period``.
    """

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self._fused: _Sampled | None = None
        self._repeats = 0

    def adds_nothing(self, frame: RgbdFrame) -> bool:
        """Whether a frame can be left out."""
        if self._fused is None or not 0 < self._config.still_frames <= self._repeats:
            return False
        passed = abs(seconds(frame.stamp - self._fused.stamp))
        return passed < self._config.still_period and self._is_same(_Sampled.of(frame))

    def fused(self, frame: RgbdFrame) -> None:
        """A frame went into the map; those to come are measured against it."""
        if self._config.still_frames > 0:
            sampled = _Sampled.of(frame)
            self._repeats = self._repeats + 1 if self._is_same(sampled) else 1
            self._fused = sampled

    def _is_same(self, sampled: _Sampled) -> bool:
        if self._fused is None or self._fused.intrinsics != sampled.intrinsics:
            return False
        distance, angle = motion_between(self._fused.world_from_camera, sampled.world_from_camera)
        return max(distance, angle) <= self._config.still_motion and sampled.is_in(self._fused)
