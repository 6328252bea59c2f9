"""A parked robot: few frames are fused, changes still are."""

from __future__ import annotations

import numpy as np
import pytest
from bodies import FURNITURE, looking, room_frame

from chorus_core.config import GateConfig
from chorus_core.frames import RgbdFrame
from chorus_core.mapping.stillness import Stillness

CONFIG = GateConfig(still_frames=5, still_motion=0.01, still_period=10.0)
RATE = 5.0


def wanted(stillness: Stillness, frames: list[RgbdFrame]) -> list[bool]:
    result = []
    for frame in frames:
        result.append(not stillness.adds_nothing(frame))
        if result[-1]:
            stillness.fused(frame)
    return result


def parked(count: int, start: int = 0, boxes=FURNITURE, jitter: float = 0.001) -> list[RgbdFrame]:
    rng = np.random.default_rng(start)
    poses = [looking(*rng.normal(0, jitter, 2), yaw=0.3 + rng.normal(0, jitter)) for _ in range(count)]
    return [room_frame(pose, (start + i) / RATE, boxes, rng) for i, pose in enumerate(poses)]


def test_after_the_first_frames_one_every_period() -> None:
    result = wanted(Stillness(CONFIG), parked(150))
    assert all(result[:5])
    # 10 s at 5 Hz after the last one fused.
    assert np.flatnonzero(result[5:]).tolist() == [49, 99]


def test_what_comes_into_view_is_seen_at_once_and_what_leaves_too() -> None:
    stillness = Stillness(CONFIG)
    wanted(stillness, parked(20))
    cup = ((1.9, -0.2, 0.8), (2.0, -0.1, 0.92))
    came = wanted(stillness, parked(20, 20, (*FURNITURE, cup)))
    assert came == [True] * 5 + [False] * 15
    left = wanted(stillness, parked(20, 40))
    assert left == [True] * 5 + [False] * 15


def test_driving_is_never_still() -> None:
    frames = [room_frame(looking(0.02 * i, 0, 0.3), i / 30) for i in range(40)]
    assert all(wanted(Stillness(CONFIG), frames))


def test_creeping_adds_up() -> None:
    """3 mm a frame: after a centimetre the view is a new one."""
    frames = [room_frame(looking(0.003 * i, 0, 0.3), i / 30) for i in range(100)]
    result = wanted(Stillness(CONFIG), frames)
    assert max(np.diff(np.flatnonzero(result))) <= 4


@pytest.mark.parametrize("frames", [parked(40)])
def test_it_can_be_turned_off(frames: list[RgbdFrame]) -> None:
    assert all(wanted(Stillness(GateConfig(still_frames=0)), frames))


def test_a_clock_set_back_does_not_stop_the_map() -> None:
    stillness = Stillness(CONFIG)
    wanted(stillness, parked(20, 500))
    assert wanted(stillness, parked(1)) == [True]
