"""Images whose luminance and colour differences lie in planes of their own (NV12, NV21, NV24); no ROS needed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from chorus_core.io.image_header import ImageError


@dataclass(frozen=True)
class _Layout:
    """How the second plane follows the first: pixels that share a pair, along each side; which of a pair is first."""

    shared: int
    blue_first: bool


LAYOUTS = {"nv12": _Layout(2, True), "nv21": _Layout(2, False), "nv24": _Layout(1, True)}
"""By encoding, as Video4Linux defines them; nv21 and nv24 are in sensor_msgs/image_encodings.hpp, nv12 is in use."""

_RGB_FROM_YUV = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])  # ITU-R BT.601
_YUV_ZERO = np.array([16.0, 128.0, 128.0])
_YUV_RANGE = np.array([219.0, 224.0, 224.0])


def decode_planes(encoding: str, height: int, width: int, step: int, pixels: np.ndarray) -> np.ndarray:
    """Luminance Y and colour differences U, V of each pixel, uint8 [H, W, 3].

    Drivers do not agree about ``step``. Where the data are just what the pixels need, they have no padding, whatever it
    says; else it is the bytes of a row of luminance.

    Args:
        encoding: one of :data:`LAYOUTS`.
        pixels: uint8 [M].

    Raises:
        ImageError: an odd side where pixels share colour, step shorter than a row, or too little data.
    """
    layout = LAYOUTS[encoding]
    if height % layout.shared or width % layout.shared:
        raise ImageError(f"{encoding} image of {width}x{height}: expected even sides, as two pixels share a colour")
    rows, pairs = height // layout.shared, width // layout.shared
    if pixels.size == height * width + rows * pairs * 2:
        step = width
    if step < width:
        raise ImageError(f"step {step}: expected at least {width} bytes for {width} pixels of {encoding}")
    pair_step = step * 2 // layout.shared
    needed = height * step + (rows - 1) * pair_step + pairs * 2
    if pixels.size < needed:
        raise ImageError(f"{pixels.size} bytes of data: expected {needed} for {width}x{height} {encoding}")
    luminance = np.lib.stride_tricks.as_strided(pixels, (height, width), (step, 1), writeable=False)
    second = pixels[height * step :]
    colors = np.lib.stride_tricks.as_strided(second, (rows, pairs, 2), (pair_step, 2, 1), writeable=False)
    if not layout.blue_first:
        colors = colors[:, :, ::-1]
    colors = colors.repeat(layout.shared, axis=0).repeat(layout.shared, axis=1)
    return np.dstack([luminance, colors])


def yuv_to_rgb(yuv: np.ndarray) -> np.ndarray:
    """RGB of ITU-R BT.601 in video range (luminance 16 to 235), uint8 [H, W, 3] both."""
    matrix = _RGB_FROM_YUV * (255.0 / _YUV_RANGE)
    return cv2.transform(yuv, np.hstack([matrix, -(matrix @ _YUV_ZERO)[:, None]]))
