"""Image bytes, as ROS messages and files hold them, to arrays. Pure functions on numpy; no ROS needed."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

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
}
"""Type and channels of a pixel by the name in sensor_msgs/image_encodings.hpp."""

_NO_DEPTH_U16 = 65535
_COMPRESSED_DEPTH_HEADER = struct.Struct("<iff")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class ImageError(ValueError):
    """An image that cannot be decoded. The message names the encoding or field, the value and the expected form."""


def decode_image(encoding: str, height: int, width: int, step: int, is_bigendian: bool | int, data: Any) -> np.ndarray:
    """Pixels of a raw ``sensor_msgs/Image``.

    Args:
        encoding: as in sensor_msgs/image_encodings.hpp: rgb8, bgr8, rgba8, bgra8, mono8, 8UC1, 8UC3, 8UC4, mono16,
            16UC1, 32FC1.
        height, width: pixels.
        step: bytes a row, padding included.
        is_bigendian: byte order of pixels wider than a byte.
        data: uint8 buffer of ``height * step`` bytes or more (bytes, memoryview, array.array, ndarray).

    Returns:
        uint8, uint16 or float32 in native byte order, [H, W] or [H, W, C] with channels as the encoding orders them;
        a view of ``data`` where it can be (do not write to it).

    Raises:
        ImageError: unknown encoding, impossible size, step shorter than a row, or too little data.
    """
    if encoding not in _ENCODINGS:
        raise ImageError(f"encoding {encoding!r}: expected one of {', '.join(_ENCODINGS)}")
    if height <= 0 or width <= 0:
        raise ImageError(f"image size {width}x{height}: expected positive width and height")
    type_code, channels = _ENCODINGS[encoding]
    dtype = np.dtype(type_code).newbyteorder(">" if is_bigendian else "<")
    row_bytes = width * channels * dtype.itemsize
    if step < row_bytes:
        raise ImageError(f"step {step}: expected at least {row_bytes} bytes for {width} pixels of {encoding}")
    pixels = _bytes(data)
    # the last row may come without its padding
    needed = (height - 1) * step + row_bytes
    if pixels.size < needed:
        raise ImageError(f"{pixels.size} bytes of data: expected {height * step} for {width}x{height} {encoding}")
    rows = np.lib.stride_tricks.as_strided(pixels, (height, row_bytes), (step, 1), writeable=False)
    image = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    image = image.astype(dtype.newbyteorder("="), copy=False)
    return image[:, :, 0] if channels == 1 else image


def decode_compressed(format: str, data: Any) -> np.ndarray:
    """Pixels of a ``sensor_msgs/CompressedImage`` or of a JPEG or PNG file's bytes.

    Args:
        format: the message field: ``jpeg``, ``png``, ``rgb8; jpeg compressed bgr8``, ``16UC1; png compressed``, or, for
            compressed_depth_image_transport, ``16UC1; compressedDepth`` / ``32FC1; compressedDepth png``.
        data: uint8 buffer.

    Returns:
        colour as RGB uint8 [H, W, 3] (an alpha channel is dropped), grey as uint8 [H, W], depth as uint16 [H, W] as
        stored (millimetres for 16UC1) or float32 [H, W] metres (32FC1 compressedDepth, 0 = none).

    Raises:
        ImageError: unsupported format, or bytes that do not decode.
    """
    content = _bytes(data)
    if "compresseddepth" in format.lower():
        return _decode_compressed_depth(format, content)
    if not any(kind in format.lower() for kind in ("jpeg", "jpg", "png")):
        raise ImageError(f"compressed image format {format!r}: expected jpeg, png or compressedDepth")
    image = _imdecode(content, format)
    if image.dtype == np.uint16 and image.ndim == 2:
        return image
    if image.dtype != np.uint8:
        raise ImageError(f"{format} image of {image.dtype} {image.shape}: expected 8-bit colour or 16-bit grey")
    if image.ndim == 2:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


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

    Args:
        array: uint8 [H, W] or [H, W, C] in the order of ``encoding``; [H, W] is grey whatever the encoding.

    Raises:
        ImageError: an encoding without colour, or an array that does not fit it.
    """
    if array.dtype != np.uint8:
        raise ImageError(f"colour image is {array.dtype} ({encoding}): expected uint8")
    if encoding not in _ENCODINGS or _ENCODINGS[encoding][0] != "u1":
        raise ImageError(f"colour encoding {encoding!r}: expected rgb8, bgr8, rgba8, bgra8, mono8 or 8UC1/3/4")
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    channels = _ENCODINGS[encoding][1]
    if array.ndim != 3 or array.shape[2] != channels:
        raise ImageError(f"colour image of shape {array.shape}: expected [H, W, {channels}] for {encoding}")
    if encoding in ("rgb8", "rgba8"):
        return np.ascontiguousarray(array[:, :, :3])
    return np.ascontiguousarray(array[:, :, 2::-1])


def _bytes(data: Any) -> np.ndarray:
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, dtype=np.uint8)


def _imdecode(content: np.ndarray, what: str) -> np.ndarray:
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    except cv2.error as error:
        raise ImageError(f"{what} image of {content.size} bytes does not decode: {error.err}") from error
    if image is None:
        raise ImageError(f"{what} image of {content.size} bytes does not decode: empty, cut short or another format")
    return image


def _decode_compressed_depth(format: str, content: np.ndarray) -> np.ndarray:
    """compressed_depth_image_transport: 12 bytes (int32 kind, float32 a, float32 b), then a PNG of 16 bits.

    For 32FC1 the PNG holds quantised inverse depth: depth = a / (value - b), value 0 = none.
    """
    header_size = _COMPRESSED_DEPTH_HEADER.size
    if content.size <= header_size:
        raise ImageError(f"{format} image of {content.size} bytes: expected a header of {header_size} bytes and a PNG")
    _, quant_a, quant_b = _COMPRESSED_DEPTH_HEADER.unpack(content[:header_size].tobytes())
    payload = content[header_size:]
    if payload[: len(_PNG_MAGIC)].tobytes() != _PNG_MAGIC:
        raise ImageError(f"{format} image: no PNG after the header (the RVL coding is not supported)")
    stored = _imdecode(payload, format)
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise ImageError(f"{format} image holds {stored.dtype} {stored.shape}: expected uint16 [H, W]")
    if not format.strip().upper().startswith("32FC1"):
        return stored
    if not np.isfinite([quant_a, quant_b]).all() or quant_a <= 0:
        raise ImageError(f"{format} image has quantisation a = {quant_a}, b = {quant_b}: expected finite, a > 0")
    distance = stored.astype(np.float32) - np.float32(quant_b)
    valid = (stored > 0) & (distance > 0)
    return np.where(valid, np.float32(quant_a) / np.where(valid, distance, np.float32(1)), np.float32(0))
