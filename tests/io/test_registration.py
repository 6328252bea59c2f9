"""Colour of one camera in the view of another, against the rays themselves."""

from __future__ import annotations

import numpy as np
import pytest

from chorus_core.frames import CameraIntrinsics, FrameError
from chorus_core.io.registration import color_in_view


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_colour_follows_the_rays(factor):
    """A linear pattern over the rays is one in either image, whatever the resampling."""
    size = 24, 20
    camera = CameraIntrinsics(21.0, 19.0, 11.0, 10.2, *size)
    color_camera = CameraIntrinsics(20.0, 22.0, 14.3, 13.1, 30, 28).scaled(round(30 * factor), round(28 * factor))

    def pattern(k: CameraIntrinsics) -> np.ndarray:
        v, u = np.mgrid[: k.height, : k.width]
        x, y = (u - k.cx) / k.fx, (v - k.cy) / k.fy
        return np.dstack([128 + 80 * x, 128 + 80 * y, 128 + 40 * (x - y)])

    color = np.round(pattern(color_camera)).astype(np.uint8)
    found, seen = color_in_view(color, color_camera, size, camera)
    assert seen.all()
    assert np.abs(found - pattern(camera))[2:-2, 2:-2].max() < 1.5


def test_what_colour_does_not_see():
    wide = CameraIntrinsics(10.0, 10.0, 15.5, 15.5, 32, 32)
    narrow = CameraIntrinsics(20.0, 20.0, 15.5, 15.5, 32, 32)
    _, seen = color_in_view(np.zeros((32, 32, 3), np.uint8), narrow, (32, 32), wide)
    rows, columns = np.nonzero(seen)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 23, 8, 23) and seen.sum() == 256


def test_focal_lengths_beyond_sense():
    camera = CameraIntrinsics(1.0, 1.0, 15.5, 15.5, 32, 32)
    with pytest.raises(FrameError, match="expected like views"):
        color_in_view(np.zeros((32, 32, 3), np.uint8), camera, (32, 32), CameraIntrinsics(1e9, 1.0, 15.5, 15.5, 32, 32))
