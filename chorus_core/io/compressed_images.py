"""Compressed images, as files and ``sensor_msgs/CompressedImage`` hold them, to arrays; no ROS needed."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

from chorus_core.io.image_header import MAX_PIXELS, ImageError, image_header

_DEPTH_HEADER = struct.Struct("<iff")
_RVL_SIZE = struct.Struct("<II")


def decode_compressed(format: str, data: Any) -> np.ndarray:
    """Pixels of a ``sensor_msgs/CompressedImage`` or of an image file's bytes.

    JPEG, PNG, PNM and TIFF are told by their first bytes: drivers leave ``format`` empty or give
    the raw encoding in it.

    Args:
        format: the message field. It decides one thing: whether this is compressed_depth_image_transport's form
            (``16UC1; compressedDepth``, ``32FC1; compressedDepth png``, ``16UC1; compressedDepth rvl``).
        data: uint8 buffer.

    Returns:
        colour as RGB uint8 [H, W, 3] (an alpha channel is dropped, 16 bits a channel are brought to 8), grey as uint8
        [H, W], depth as uint16 [H, W] as stored (millimetres for 16UC1) or float32 [H, W] metres (32FC1
        compressedDepth and TIFF; 0 = none in the former).

    Raises:
        ImageError: unsupported form, bytes that do not decode, or over 2^25 pixels.
    """
    content = as_bytes(data)
    if "compresseddepth" in format.lower():
        return _decode_depth(format, content)
    try:
        image = _imdecode(content)
    except ImageError as error:
        raise ImageError(f"format {format!r}: {error}" if format else str(error)) from error
    if image.ndim == 2 and image.dtype in (np.uint8, np.uint16, np.float32):
        return image
    if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{format} image of {image.dtype} {image.shape}: expected colour, or grey for depth")
    if image.dtype == np.uint16:
        image = to_eight_bits(image)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def to_eight_bits(image: np.ndarray) -> np.ndarray:
    """uint16 of full range to uint8, rounded: 65535 becomes 255. Any shape."""
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def as_bytes(data: Any) -> np.ndarray:
    """Any buffer as uint8 [M], without a copy where it can be."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    return np.frombuffer(data, dtype=np.uint8)


def _imdecode(content: np.ndarray) -> np.ndarray:
    form = image_header(content.tobytes()).form
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"{form} image of {content.size} bytes does not decode: {error.err}") from error
    if image is None:
        raise ImageError(f"{form} image of {content.size} bytes does not decode: damaged or cut short")
    return image


def _decode_depth(format: str, content: np.ndarray) -> np.ndarray:
    """compressed_depth_image_transport: 12 bytes (int32 kind, float32 a, float32 b), then 16 bits as PNG or RVL.

    For 32FC1 they are quantised inverse depth: depth = a / (value - b), value 0 = none.
    """
    size = _DEPTH_HEADER.size
    if content.size <= size:
        raise ImageError(f"{format} image of {content.size} bytes: expected a header of {size} bytes and an image")
    _, quant_a, quant_b = _DEPTH_HEADER.unpack(content[:size].tobytes())
    stored = _decode_rvl(content[size:].tobytes()) if "rvl" in format.lower() else _imdecode(content[size:])
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise ImageError(f"{format} image holds {stored.dtype} {stored.shape}: expected uint16 [H, W]")
    if not format.strip().upper().startswith("32FC1"):
        return stored
    if not np.isfinite([quant_a, quant_b]).all() or quant_a <= 0:
        raise ImageError(f"{format} image has quantisation a = {quant_a}, b = {quant_b}: expected finite, a > 0")
    distance = stored.astype(np.float32) - np.float32(quant_b)
    valid = (stored > 0) & (distance > 0)
    return np.where(valid, np.float32(quant_a) / np.where(valid, distance, np.float32(1)), np.float32(0))


def _decode_rvl(content: bytes) -> np.ndarray:
    """uint16 [H, W] of the RVL coding (Wilson, "Fast lossless depth image compression", 2017).

    Width and height (uint32 each), then runs of zeros and of differences. Numbers come in groups of 4 bits, 3 of them
    payload, the highest saying that more follow; 8 groups make a 32-bit word, highest first.
    """
    if len(content) < _RVL_SIZE.size:
        raise ImageError(f"RVL image of {len(content)} bytes: expected its size and data")
    width, height = _RVL_SIZE.unpack_from(content)
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ImageError(f"RVL image of {width}x{height}: expected 1 to {MAX_PIXELS} pixels (2^25)")
    numbers = _rvl_numbers(content[_RVL_SIZE.size :])
    differences, known = np.zeros(width * height, np.int64), np.zeros(width * height, bool)
    at = read = 0
    while at < len(known):
        zeros, count = numbers[read : read + 2].tolist() if read + 2 <= len(numbers) else (0, len(known))
        run = numbers[read + 2 : read + 2 + count]
        at += zeros
        if len(run) < count or at + count > len(known):
            raise ImageError(f"RVL image of {width}x{height}: cut short or damaged at pixel {at}")
        differences[at : at + count] = (run >> 1) ^ -(run & 1)
        known[at : at + count] = True
        at, read = at + count, read + 2 + count
    return np.where(known, np.cumsum(differences), 0).astype(np.uint16).reshape(height, width)


def _rvl_numbers(content: bytes) -> np.ndarray:
    """The numbers of an RVL stream, int64 [M]; the last ones may be zeros that fill its last word."""
    words = np.frombuffer(content[: len(content) // 4 * 4], "<u4")
    groups = ((words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)) & 15).reshape(-1).astype(np.int64)
    ends = np.flatnonzero(groups < 8)
    if not len(ends):
        return np.zeros(0, np.int64)
    groups = groups[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(groups)) - np.repeat(starts, ends + 1 - starts)  # of a group within its number, lowest first
    if place.max() > 10:
        raise ImageError("RVL image with a number of over 32 bits: damaged")
    return np.add.reduceat((groups & 7) << (3 * place), starts)
