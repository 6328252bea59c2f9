"""Which camera info a frame takes, for each way drivers send them."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

from chorus_ros.calibration_history import CalibrationHistory

MS = 1_000_000


def info(focal: float = 500.0, **fields: object) -> CameraInfo:
    message = CameraInfo(width=640, height=480, **fields)
    message.k = np.array([focal, 0.0, 320.0, 0.0, focal, 240.0, 0.0, 0.0, 1.0])
    return message


@pytest.fixture
def history() -> CalibrationHistory:
    return CalibrationHistory(tolerance=20 * MS, patience=0.1)


def focal(found: CameraInfo | None) -> float | None:
    return None if found is None else float(found.k[0])


def test_nothing_is_known_at_first(history: CalibrationHistory) -> None:
    assert not history.known
    assert history.at(0, waited=10.0) is None


def test_one_info_is_enough(history: CalibrationHistory) -> None:
    history.add(0, info())
    assert history.known
    assert history.at(900 * MS, waited=0.0) is None  # its own might come
    assert focal(history.at(900 * MS, waited=0.2)) == 500.0
    for seconds in (1, 10, 1000):  # nobody waits in vain again
        assert focal(history.at(seconds * 1000 * MS + 1, waited=0.0)) == 500.0


def test_info_after_its_frame_is_waited_for_shortly(history: CalibrationHistory) -> None:
    """Where infos come with every frame, the frame's own may differ."""
    history.add(1000 * MS, info())
    assert history.at(1033 * MS, waited=0.0) is None
    assert focal(history.at(1033 * MS, waited=0.2)) == 500.0  # it was lost
    assert focal(history.at(1066 * MS, waited=0.0)) == 500.0  # for now infos are taken not to come along
    history.add(1066 * MS, info())
    assert history.at(1100 * MS, waited=0.0) is None  # they do again
    history.add(1100 * MS, info(600.0))
    assert focal(history.at(1100 * MS, waited=0.0)) == 600.0
    assert focal(history.at(1000 * MS, waited=0.0)) == 500.0  # a frame that waited for its pose


def test_frame_before_the_first_info_takes_it(history: CalibrationHistory) -> None:
    history.add(1000 * MS, info())
    assert focal(history.at(900 * MS, waited=0.0)) == 500.0


def test_equal_infos_take_no_room_and_zooming_takes_a_bounded_one(history: CalibrationHistory) -> None:
    for i in range(1000):
        history.add(33 * MS * i, info())
    assert len(history._infos) == 1
    for i in range(1000, 2000):
        history.add(33 * MS * i, info(500.0 + i))
    assert len(history._infos) == 64
    assert focal(history.at(33 * MS * 1999, waited=0.0)) == 2499.0


def test_restart_keeps_what_came_last(history: CalibrationHistory) -> None:
    history.add(50_000 * MS, info(500.0))
    history.add(60_000 * MS, info(600.0))
    history.restart()
    assert focal(history.at(5_000 * MS, waited=0.2)) == 600.0


@pytest.mark.parametrize("change", ["width", "binning_x", "distortion_model", "roi", "d", "p"])
def test_any_difference_makes_another_calibration(history: CalibrationHistory, change: str) -> None:
    other = info()
    if change == "roi":
        other.roi.x_offset = 5
    else:
        old = getattr(other, change)
        new = {"width": 320, "binning_x": 2, "distortion_model": "fisheye", "d": [0.1], "p": np.ones(12)}[change]
        assert not np.array_equal(old, new)
        setattr(other, change, new)
    history.add(0, info())
    history.add(100 * MS, other)
    assert history.at(100 * MS, waited=0.0) is other
