"""Intrinsics from CameraInfo: against rays of the full sensor, which a region or binning does not change."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.frames import CameraIntrinsics, FrameError
from chorus_core.io.camera_info import intrinsics_from_info

WIDTH, HEIGHT, FX, FY, CX, CY = 160, 120, 140.0, 145.0, 81.0, 57.5


def camera_info(**changes: Any) -> SimpleNamespace:
    values = {
        "width": WIDTH,
        "height": HEIGHT,
        "k": np.array([FX, 0, CX, 0, FY, CY, 0, 0, 1.0]),
        "p": np.array([100.0, 0, 70, 0, 0, 101, 50, 0, 0, 0, 1, 0]),
        "binning_x": 0,
        "binning_y": 0,
        "roi": SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0),
    }
    return SimpleNamespace(**{**values, **changes})


def roi(x: int, y: int, width: int, height: int) -> SimpleNamespace:
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height)


def test_whole_sensor() -> None:
    whole = CameraIntrinsics(FX, FY, CX, CY, WIDTH, HEIGHT)
    assert intrinsics_from_info(camera_info()) == whole
    assert intrinsics_from_info(camera_info(roi=roi(0, 0, WIDTH, HEIGHT), binning_x=1, binning_y=1)) == whole
    assert intrinsics_from_info(camera_info(), image_size=(320, 240)) == whole, "another size of the same view"


@given(
    x=st.integers(0, 60), y=st.integers(0, 40), width=st.integers(16, 100), height=st.integers(16, 80),
    bins=st.tuples(st.integers(1, 4), st.integers(1, 4)), u=st.floats(0, 3), v=st.floats(0, 3),
)  # fmt: skip
def test_a_pixel_of_a_part_looks_where_its_pixels_of_the_sensor_look(x, y, width, height, bins, u, v) -> None:
    width, height = width // bins[0] * bins[0], height // bins[1] * bins[1]
    info = camera_info(roi=roi(x, y, width, height), binning_x=bins[0], binning_y=bins[1])
    part = intrinsics_from_info(info)
    assert (part.width, part.height) == (width // bins[0], height // bins[1])
    # The middle of a binned pixel is the middle of the sensor's pixels that it was made of.
    sensor_u, sensor_v = x + (u + 0.5) * bins[0] - 0.5, y + (v + 0.5) * bins[1] - 0.5
    assert (u - part.cx) / part.fx == pytest.approx((sensor_u - CX) / FX)
    assert (v - part.cy) / part.fy == pytest.approx((sensor_v - CY) / FY)


def test_rectified_images_have_the_projection_matrix() -> None:
    assert intrinsics_from_info(camera_info(), rectified=True).fx == 100.0
    assert intrinsics_from_info(camera_info(p=np.zeros(12)), rectified=True).fx == FX
    part = intrinsics_from_info(camera_info(roi=roi(10, 20, 40, 30)), rectified=True)
    assert (part.fx, part.cx, part.cy) == (100.0, 60.0, 30.0)


def test_a_driver_that_leaves_the_size_to_the_images() -> None:
    assert intrinsics_from_info(camera_info(width=0, height=0), image_size=(160, 120)).width == 160
    with pytest.raises(FrameError, match="size 0x0"):
        intrinsics_from_info(camera_info(width=0, height=0))


def matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1.0])


def test_wide_and_long_cameras_are_taken() -> None:
    for focus in (12.0, 5000.0):  # 163 degrees, 1.8 degrees
        assert intrinsics_from_info(camera_info(k=matrix(focus, focus, CX, CY))).fx == focus


def test_principal_point_of_a_region_may_lie_outside_it() -> None:
    part = intrinsics_from_info(camera_info(roi=roi(120, 90, 40, 30)))
    assert (part.cx, part.cy) == (CX - 120, CY - 90)


def test_images_that_a_driver_cropped_are_taken() -> None:
    """Some say the size of the crop and move the principal point by themselves."""
    assert intrinsics_from_info(camera_info(k=matrix(FX, FY, -30.0, 170.0))).cx == -30.0


@pytest.mark.parametrize(
    ("changes", "image_size", "message"),
    [
        ({"k": matrix(0.8, 1.1, 0.5, 0.5)}, None, "camera_info: focal lengths 0.8, 1.1 at 160x120 pixels: expected"),
        ({"k": matrix(FX, 1e5, CX, CY)}, None, "focal lengths 140, 100000 at 160x120"),
        ({"k": matrix(FX, FY, 1000, CY)}, None, r"principal point 1000, 57.5 \(cx, cy\) in images of 160x120"),
        ({"k": matrix(FX, FY, CX, -80)}, None, "principal point 81, -80"),
        ({"k": matrix(FX, FY, 1000, CY), "width": 0, "height": 0}, (160, 120), "principal point 1000, 57.5"),
        ({"k": np.zeros(9)}, None, "uncalibrated"),
        ({"roi": roi(100, 0, 80, 60)}, None, "roi 80x60 at 100, 0: expected a part of the sensor's 160x120"),
        ({"roi": roi(40, 30, 0, 0)}, None, "roi 0x0"),
        ({"roi": roi(40, 30, 80, 60)}, (160, 120), "image of 160x120: expected 80x60"),
        ({"binning_x": 2, "binning_y": 2}, (160, 120), "expected 80x60, as camera_info has roi .* binning 2x2"),
    ],
)
def test_what_does_not_fit_is_refused(changes, image_size, message) -> None:
    with pytest.raises(FrameError, match=message):
        intrinsics_from_info(camera_info(**changes), image_size=image_size)
