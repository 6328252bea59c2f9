"""Image bytes, as ROS messages and files hold them, to arrays. Pure functions on numpy; no ROS needed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from chorus_core.io.compressed_images import as_bytes, decode_compressed, to_eight_bits
from chorus_core.io.image_header import ImageError
from chorus_core.io.planar_images import LAYOUTS, decode_planes, yuv_to_rgb

__all__ = ["ImageError", "color_to_rgb", "decode_compressed", "decode_image", "depth_to_metres"]

_ENCODINGS: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "8UC1": ("u1", 1),
    "8UC3": ("u1", 3),
    "8UC4": ("u1", 4),
    "mono16": ("u2", 1),
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
    **{name: ("u2", len(name) - 2) for name in ("rgb16", "bgr16", "rgba16", "bgra16")},
    **dict.fromkeys(("yuv422", "uyvy", "yuv422_yuy2", "yuyv"), ("u1", 2)),
    **{f"bayer_{order}{bits}": (f"u{bits // 8}", 1) for order in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)},
    **dict.fromkeys(LAYOUTS, ("u1", 3)),
}
"""Type and channels of a pixel by the name in sensor_msgs/image_encodings.hpp."""

_YUV_TO_RGB = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,  # the older of two names for each order
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUYV,
    "yuyv": cv2.COLOR_YUV2RGB_YUYV,
}
_BAYER_TO_RGB = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}
"""By the colours of the first two pixels of the first two rows, which is what ROS and these names of OpenCV mean."""

_NO_DEPTH_U16 = 65535


def decode_image(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Any) -> np.ndarray:
    """Pixels of a raw ``sensor_msgs/Image``.

    Args:
        encoding: as in sensor_msgs/image_encodings.hpp: rgb, bgr, rgba, bgra, mono and bayer_* of 8 or 16 bits, yuv422
            (uyvy), yuv422_yuy2 (yuyv), nv12, nv21, nv24, 8UC1, 8UC3, 8UC4, 16UC1, 32FC1.
        height, width: pixels.
        step: bytes a row, padding included.
        is_bigendian: byte order of pixels wider than a byte.
        data: uint8 buffer of ``height * step`` bytes or more (bytes, memoryview, array.array, ndarray).

    Returns:
        uint8, uint16 or float32 in native byte order, [H, W] or [H, W, C] with channels as the encoding orders them
        (nv*: Y, U, V); a view of ``data`` where it can be (do not write to it).

    Raises:
        ImageError: unknown encoding, impossible size, step shorter than a row, or too little data.
    """
    if encoding not in _ENCODINGS:
        raise ImageError(f"encoding {encoding!r}: expected one of {', '.join(_ENCODINGS)}")
    if height <= 0 or width <= 0:
        raise ImageError(f"image size {width}x{height}: expected positive width and height")
    if encoding in LAYOUTS:
        return decode_planes(encoding, height, width, step, as_bytes(data))
    type_code, channels = _ENCODINGS[encoding]
    dtype = np.dtype(type_code).newbyteorder(">" if is_bigendian else "<")
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes:
        raise ImageError(f"step {step}: expected at least {row_bytes} bytes for {width} pixels of {encoding}")
    pixels = as_bytes(data)
    # the last row may come without its padding
    needed = (height - 1) * step + row_bytes
    if pixels.size < needed:
        raise ImageError(f"{pixels.size} bytes of data: expected {height * step} for {width}x{height} {encoding}")
    rows = np.lib.stride_tricks.as_strided(pixels, (height, row_bytes), (step, 1), writeable=False)
    image = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    image = image.astype(dtype.newbyteorder("="), copy=False)
    return image[:, :, 0] if channels == 1 else image


def depth_to_metres(array: np.ndarray, encoding: str | None = None, scale: float = 1000.0) -> np.ndarray:
    """Depth as float32 metres, 0 = none.

    Args:
        array: depth [H, W].
        encoding: 16UC1 or mono16 (``scale`` units a metre; 0 and 65535 = none) or 32FC1 (metres; non-finite and
            negative = none). None tells by the array's type.
        scale: units a metre of the 16-bit encodings (ROS, REP 118: 1000).

    Raises:
        ImageError: another encoding, or an array of another type or shape.
    """
    if encoding is None:
        encoding = {"uint16": "16UC1", "float32": "32FC1"}.get(str(array.dtype), str(array.dtype))
    expected = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}.get(encoding)
    if expected is None:
        raise ImageError(f"depth encoding {encoding!r}: expected 16UC1, mono16 or 32FC1")
    if array.dtype != expected or array.ndim != 2:
        raise ImageError(f"depth is {array.dtype} {array.shape}: expected {np.dtype(expected)} [H, W] for {encoding}")
    if expected == np.float32:
        return np.where(np.isfinite(array) & (array > 0), array, np.float32(0))
    return np.where(array == _NO_DEPTH_U16, np.float32(0), array / np.float32(scale))


def color_to_rgb(array: np.ndarray, encoding: str = "rgb8") -> np.ndarray:
    """Colour as contiguous RGB uint8 [H, W, 3]; grey is repeated, alpha dropped, 8UC3 and 8UC4 are BGR as in OpenCV.

    YUV is of ITU-R BT.601 in video range; Bayer patterns are interpolated linearly; 16 bits are brought to 8.

    Args:
        array: uint8 or uint16 as :func:`decode_image` gives it, or uint8 [H, W], which is grey unless ``encoding`` is a
            Bayer pattern.

    Raises:
        ImageError: an encoding without colour, or an array that does not fit it.
    """
    type_code, channels = _ENCODINGS.get(encoding, ("", 0))
    if type_code not in ("u1", "u2") or encoding == "16UC1":
        raise ImageError(
            f"colour encoding {encoding!r}: expected rgb, bgr, rgba, bgra, mono, bayer, yuv422, nv or 8UC1/3/4"
        )
    if array.dtype != np.dtype(type_code):
        raise ImageError(f"colour image is {array.dtype} ({encoding}): expected {np.dtype(type_code)}")
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] != channels):
        raise ImageError(f"colour image of shape {array.shape}: expected [H, W, {channels}] for {encoding}")
    if encoding in _YUV_TO_RGB and array.ndim == 3:
        if array.shape[1] % 2:
            raise ImageError(f"{encoding} image {array.shape[1]} pixels wide: expected pairs of them")
        return cv2.cvtColor(array, _YUV_TO_RGB[encoding])
    if encoding in LAYOUTS and array.ndim == 3:
        return yuv_to_rgb(array)
    if encoding.startswith("bayer_"):
        if min(array.shape) < 3:
            raise ImageError(f"{encoding} image of {array.shape[1]}x{array.shape[0]}: expected 3x3 pixels or more")
        array = cv2.cvtColor(array, _BAYER_TO_RGB[encoding[6:10]])
    if array.dtype == np.uint16:
        array = to_eight_bits(array)
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    reds_first = encoding.startswith(("rgb", "bayer"))
    return np.ascontiguousarray(array[:, :, :3] if reds_first else array[:, :, 2::-1])
