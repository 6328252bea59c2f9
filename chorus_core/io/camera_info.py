"""What ``sensor_msgs/CameraInfo`` says of the images that come with it. Duck-typed: no ROS needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError, check_center, check_view

_ROUNDING = 1
"""Pixels by which a driver may round the size of a binned image."""


def intrinsics_from_info(
    info: Any, rectified: bool = False, image_size: tuple[int, int] | None = None
) -> CameraIntrinsics:
    """Intrinsics of the images that a message describes: K of raw ones, the left part of P of rectified ones.

    K and P are of the full sensor (sensor_msgs/CameraInfo): a region of interest moves the principal point, binning
    divides sizes and focal lengths. Lens distortion is not removed.

    Args:
        info: a ``CameraInfo`` message of rclpy or of rosbags.
        rectified: whether the images are.
        image_size: width and height of the images, where they are known. Images of a region or of binned pixels must
            have exactly the size that follows from the message; others may be the same view at another size.

    Raises:
        FrameError: an uncalibrated camera (K of zeros), a matrix that no camera of that sensor has, a region that does
            not lie on the sensor, or images that are not of the size that region and binning give.
    """
    if not np.any(info.k):
        raise FrameError("camera_info.k is all zeros, which ROS means as uncalibrated: expected a camera matrix")
    width, height = int(info.width), int(info.height)
    if (width, height) == (0, 0) and image_size is not None:
        width, height = image_size  # some drivers leave it to the images
    projection = np.asarray(info.p, dtype=np.float64).reshape(3, 4)
    matrix = projection[:, :3] if rectified and projection[0, 0] > 0 else np.asarray(info.k).reshape(3, 3)
    # Of the whole sensor: the principal point of a region may well lie outside it.
    sensor = _checked(CameraIntrinsics.from_matrix(matrix, width, height))
    window = _window(info, width, height)
    binning = max(int(info.binning_x), 1), max(int(info.binning_y), 1)
    if window == (0, 0, width, height) and binning == (1, 1):
        return sensor
    x, y, window_width, window_height = window
    size = window_width // binning[0], window_height // binning[1]
    if image_size is not None:
        if max(abs(image_size[0] - size[0]), abs(image_size[1] - size[1])) > _ROUNDING:
            raise FrameError(
                f"image of {image_size[0]}x{image_size[1]}: expected {size[0]}x{size[1]}, as camera_info has roi "
                f"{window_width}x{window_height} at {x}, {y} and binning {binning[0]}x{binning[1]}"
            )
        size = image_size
    cropped = CameraIntrinsics(sensor.fx, sensor.fy, sensor.cx - x, sensor.cy - y, window_width, window_height)
    return cropped.scaled(*size)


def _checked(sensor: CameraIntrinsics) -> CameraIntrinsics:
    try:
        return check_center(check_view(sensor))
    except FrameError as error:
        raise FrameError(f"camera_info: {error}") from error


def _window(info: Any, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of the region of interest; the whole sensor where none is set."""
    roi = info.roi
    x, y, w, h = int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
    if (w, h) == (0, 0) and (x, y) == (0, 0):
        return 0, 0, width, height
    if w <= 0 or h <= 0 or x + w > width or y + h > height:
        raise FrameError(f"camera_info roi {w}x{h} at {x}, {y}: expected a part of the sensor's {width}x{height}")
    return x, y, w, h
