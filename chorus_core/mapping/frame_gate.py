"""What is let into the map: frames are held back whose pose or depth cannot be right, or that add nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from chorus_core.config import GateConfig
from chorus_core.frames import RgbdFrame
from chorus_core.mapping.agreement import NOTHING_TO_COMPARE, Agreement, coarse_stride, compare
from chorus_core.mapping.gaussian_map import GaussianMap
from chorus_core.mapping.geometry import motion_between
from chorus_core.mapping.stillness import Stillness
from chorus_core.mapping.surface import DeviceFrame
from chorus_core.stamps import seconds

POSE_JUMP, AGAINST_MAP, DEPTH_SCALE, STILL = "pose_jump", "against_map", "depth_scale", "still"
WHY = {
    POSE_JUMP: "the camera moved faster than gate.max_speed and gate.max_turn_rate allow",
    AGAINST_MAP: "the frame sees through most of the map in view (gate.against_map): is its pose right?",
    DEPTH_SCALE: "depth is that of the map times a factor (gate.depth_scale): is its unit right?",
}
"""What is wrong with a frame held back in doubt, by cause; nothing is with the ``still`` frames of a parked robot."""

# Corrections of a SLAM system, and the play of stamps, are no jumps.
_PLAY_METRES, _PLAY_RADIANS = 0.5, 0.5
# The map must cover this share of the view to have a say against a frame, ...
_COVERED = 0.25
# ... and this share of that must not be hidden by what stands before it.
_UNHIDDEN = 0.2
# A jump to where the map covers and agrees with this much of the view found itself again.
_FOUND = 0.6
# The share of the view whose depth is in one proportion to the map, where depth is off by a factor, ...
_PROPORTIONAL = 0.8
# ... and how much the depth of that view must vary: a board before a wall is in proportion to it, too.
_RELIEF = 1.3


@dataclass(frozen=True)
class _Place:
    """Where and when a frame was taken."""

    world_from_camera: np.ndarray
    stamp: int
    timed: bool

    @classmethod
    def of(cls, frame: RgbdFrame) -> _Place:
        return cls(frame.world_from_camera, frame.stamp, frame.timed)


class FrameGate:
    """Judges the frames of one camera, in the order they were taken.

    - ``pose_jump``: faster than ``max_speed`` or ``max_turn_rate`` since the last frame let in. Not judged where
      stamps are invented or go back, nor where the map agrees with the new place (the camera found itself again).
    - ``depth_scale``: the view is the map's, at a depth off by one factor of at least ``depth_scale``.
    - ``against_map``: of the map that the frame does not hide, it sees through more than ``against_map``.
    - ``still``: the camera stands still and sees nothing new; see :class:`Stillness`.

    A frame that is only hidden from the map (by people, say) is let in, and so is one the map knows nothing about: the
    first of all, for one. After ``release`` doubtful frames in a row, each plausibly reached from the one before, the
    doubt was wrong: the next are let in, and the map is not asked again before it agrees with one.

    Attributes:
        held: frames not let in, by cause.
    """

    def __init__(self, config: GateConfig) -> None:
        self.config = config
        self.held: Counter[str] = Counter()
        self._stillness = Stillness(config)
        self._last: _Place | None = None  # of the frames let in
        self._doubted: _Place | None = None  # the last doubtful frame
        self._row = 0  # of doubtful frames that fit together
        self._ask_map = True

    def judge(self, frame: RgbdFrame, map_: GaussianMap) -> str:
        """Why a frame is held back; empty where it is to be fused, which is then taken for done."""
        cause = STILL if self._stillness.adds_nothing(frame) else self._doubt(frame, map_)
        if cause in WHY and self._is_released(frame):
            cause, self._ask_map = "", False
        if cause:
            self.held[cause] += 1
        else:
            self._stillness.fused(frame)
        if cause not in WHY:
            self._last, self._doubted = _Place.of(frame), None
        return cause

    def _doubt(self, frame: RgbdFrame, map_: GaussianMap) -> str:
        jumped = self._last is not None and self._is_jump(self._last, frame)
        agreement = self._agreement(frame, map_)
        judged = agreement.covered >= _COVERED
        if jumped:
            return "" if judged and agreement.agree >= _FOUND else POSE_JUMP
        if not judged:
            return ""
        cause = self._contradiction(agreement)
        if not cause:
            self._ask_map = True
        return cause if self._ask_map else ""

    def _contradiction(self, view: Agreement) -> str:
        limit = self.config.depth_scale
        off = limit > 0 and not 1.0 / limit < view.ratio < limit
        if off and view.proportional >= _PROPORTIONAL and view.relief >= _RELIEF and view.agree < 0.5:
            return DEPTH_SCALE
        unhidden = view.agree + view.through
        limit = self.config.against_map
        return AGAINST_MAP if limit > 0 and unhidden > _UNHIDDEN and view.through > limit * unhidden else ""

    def _agreement(self, frame: RgbdFrame, map_: GaussianMap) -> Agreement:
        if self.config.against_map == self.config.depth_scale == 0 or len(map_) == 0:
            return NOTHING_TO_COMPARE
        coarse = DeviceFrame.upload(frame, map_.device, coarse_stride(frame.intrinsics.width))
        return compare(map_.points_in_view(coarse), coarse)

    def _is_jump(self, before: _Place, frame: RgbdFrame) -> bool:
        passed = seconds(frame.stamp - before.stamp)
        if not (before.timed and frame.timed) or passed < 0:
            return False
        moved = motion_between(before.world_from_camera, frame.world_from_camera)
        limits = self.config.max_speed, self.config.max_turn_rate
        play = _PLAY_METRES, _PLAY_RADIANS
        return any(rate > 0 and far > free + rate * passed for far, rate, free in zip(moved, limits, play, strict=True))

    def _is_released(self, frame: RgbdFrame) -> bool:
        """Whether a doubtful frame ends a row of ``release`` that fit together."""
        fits = self._doubted is not None and not self._is_jump(self._doubted, frame)
        self._row = self._row + 1 if fits else 1
        self._doubted = _Place.of(frame)
        return self._row > self.config.release
