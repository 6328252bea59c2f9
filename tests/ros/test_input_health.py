"""What diagnostics say of inputs that come, but not to anything."""

from __future__ import annotations

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_ros.input_health import DepthMonitor, PairingMonitor, PoseMonitor
from chorus_ros.pairing import Skew

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def test_lost_poses_are_said_with_the_time_since() -> None:
    monitor = PoseMonitor()
    assert monitor.status(0.0).level == OK
    monitor.found(10.0)
    assert monitor.status(60.0).level == OK  # no frame came: that is another part's to say
    for i in range(3):
        monitor.missed(11.0 + i, "transform from 'camera' to 'map'", "0.5 s after the newest sample")
    lost = monitor.status(30.0)
    assert lost.level == ERROR
    assert lost.message == (
        "no transform from 'camera' to 'map' since 20 s, 3 frames lost: 0.5 s after the newest sample"
    )
    monitor.found(31.0)
    assert monitor.status(31.0).level == OK


def test_poses_that_never_came_are_missed_since_the_first_frame() -> None:
    monitor = PoseMonitor()
    monitor.missed(5.0, "transform from 'a' to 'b'", "unknown frame 'a'")
    assert "since 10 s, 1 frames lost: unknown frame 'a'" in monitor.status(15.0).message


def test_frames_that_never_pair_name_the_skew() -> None:
    monitor = PairingMonitor(0.02)
    assert monitor.status(100.0, patience=5.0).level == OK
    skew = Skew("color", "depth", 350_000_000)
    for i in range(30):
        monitor.arrived(i * 0.3, False, skew)
    assert monitor.status(4.0, patience=5.0).level == OK
    status = monitor.status(9.0, patience=5.0)
    assert status.level == WARN
    assert "stamps of color lie 0.350 s behind those of depth at the nearest" in status.message
    assert "sync.tolerance is 0.02 s" in status.message
    monitor.arrived(9.1, True, None)
    assert monitor.status(9.2, patience=5.0).level == OK


def frame(depth: np.ndarray) -> RgbdFrame:
    camera = CameraIntrinsics(10.0, 10.0, 4.0, 3.0, 8, 6)
    return RgbdFrame(np.zeros((6, 8, 3), np.uint8), depth.astype(np.float32), camera, np.eye(4), 1)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "no pixel has a depth"),
        (np.nan, "no pixel has a depth"),
        (np.inf, "no pixel has a depth"),
        (9.0, "depths lie between 9.00 and 9.00 m, used are 0.2 to 5 m"),
        (0.1, "depths lie between 0.10 and 0.10 m, used are 0.2 to 5 m"),
    ],
)
def test_depth_that_holds_nothing_is_said_after_some_frames(value: float, words: str) -> None:
    monitor = DepthMonitor(patience=3)
    for _ in range(2):
        monitor.seen(frame(np.full((6, 8), value)), 0.2, 5.0)
        assert monitor.status().level == OK
    monitor.seen(frame(np.full((6, 8), value)), 0.2, 5.0)
    status = monitor.status()
    assert status.level == WARN
    assert f"nothing usable in the last 3 depth images: {words}" in status.message
    good = np.full((6, 8), value)
    good[0, 0] = 1.0
    monitor.seen(frame(good), 0.2, 5.0)
    assert monitor.status().level == OK
