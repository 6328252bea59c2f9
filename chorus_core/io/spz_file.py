"""Gaussians in the ``.spz`` format of Niantic Labs, versions 1 to 4 (github.com/nianticlabs/spz: "File Format").

Attributes follow each other, all of one kind together, little-endian:

=========  ==========================  ==========================================================================
positions  3 x 24 bits, signed         fixed point with ``fractional_bits``; version 1: 3 x float16
opacities  1 byte                      after the sigmoid, x 255
colours    3 bytes                     (0.15 f_dc + 0.5) x 255
scales     3 bytes                     (logarithm + 10) x 16
rotations  4 bytes, since version 3    from the top bit down: index of the largest of xyzw (2 bits), then the others
                                       in order, each a sign (1) and sqrt(2) x its amount x 511 (9)
rotations  3 bytes, until version 2    (x, y, z + 1) x 127.5 with w >= 0
harmonics  bytes                       not read
=========  ==========================  ==========================================================================

Versions 1 to 3 are one gzip stream with a header of 16 bytes; version 4 has a plain header of 32 bytes and a zstd
stream each attribute.
"""

from __future__ import annotations

import gzip
import io
import logging
import struct
from pathlib import Path

import numpy as np
import zstandard

from chorus_core.gaussians import SH_C0
from chorus_core.io.compressed_ply import with_largest
from chorus_core.io.errors import ReadError, reading
from chorus_core.io.scene import GaussianRows

logger = logging.getLogger(__name__)

_MAGIC = b"NGSP"
_HEADER = struct.Struct("<4sIIBBBB")
_LARGEST_RATIO = 1032  # of deflate; what real scenes come to is far less in either compression
_COLOR_SCALE = 0.15


class SpzFormatError(ReadError):
    """A ``.spz`` file that cannot be used. The message names the file and the expected form."""


def read_spz_rows(path: str | Path) -> GaussianRows:
    """Decode a ``.spz`` file, without a look at the values. View-dependent colour is read past.

    Coordinates are taken as they are stored. The format's own convention is y up, converters of ``.ply`` files keep
    what they find or turn it over: which it is, no file says.

    Raises:
        SpzFormatError: not such a file, of another version, or cut short.
        FileNotFoundError: no such file.
    """
    data = Path(path).read_bytes()
    with reading(path, SpzFormatError):
        if data[:2] == b"\x1f\x8b":
            version, bits, parts = _gzip_parts(data)
        elif data[: len(_MAGIC)] == _MAGIC:
            version, bits, parts = _zstd_parts(data)
        else:
            raise ValueError("neither a gzip stream nor 'NGSP' at its beginning")
    logger.warning("%s: taken as it is stored; scenes are read with z up, and the convention of .spz is y up", path)
    positions, opacities, colors, scales, rotations = parts
    return GaussianRows(
        means=_half(positions) if version == 1 else _fixed_point(positions, bits),
        quats=_smallest_three(rotations) if version >= 3 else _first_three(rotations),
        scales=np.exp(scales / np.float32(16.0) - np.float32(10.0)),
        opacities=opacities[:, 0] / np.float32(255.0),
        colors=0.5 + SH_C0 * (colors / np.float32(255.0) - np.float32(0.5)) / np.float32(_COLOR_SCALE),
    )


def _widths(version: int) -> tuple[int, ...]:
    """Bytes a Gaussian takes in each attribute that is read."""
    return (6 if version == 1 else 9, 1, 3, 3, 4 if version >= 3 else 3)


def _gzip_parts(data: bytes) -> tuple[int, int, list[np.ndarray]]:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        version, count, bits, _ = _header(file.read(_HEADER.size), range(1, 4), len(data))
        parts = [_array(file.read(count * width), count, width) for width in _widths(version)]
        while file.read(1 << 20):  # to the end, where the checksum is
            pass
    return version, bits, parts


def _zstd_parts(data: bytes) -> tuple[int, int, list[np.ndarray]]:
    version, count, bits, streams = _header(data[: _HEADER.size], range(4, 5), len(data))
    table = struct.unpack_from("<I", data, _HEADER.size)[0]
    start, parts = table + 16 * streams, []
    for number, width in enumerate(_widths(version)[: streams if count else 0]):
        packed = struct.unpack_from("<QQ", data, table + 16 * number)[0]
        stream = zstandard.ZstdDecompressor().stream_reader(data[start : start + packed])
        parts.append(_array(stream.read(count * width), count, width))
        start += packed
    if len(parts) < len(_widths(version)) and count:
        raise ValueError(f"{streams} streams: expected {len(_widths(version))} or more")
    return version, bits, parts or [_array(b"", 0, width) for width in _widths(version)]


def _header(header: bytes, versions: range, file_size: int) -> tuple[int, int, int, int]:
    """Version, number of Gaussians, bits after the point, and the byte that version 4 counts streams in."""
    magic, version, count, _, bits, _, last = _HEADER.unpack(header)
    if magic != _MAGIC or version not in versions:
        raise ValueError(f"{magic!r} version {version}: expected {_MAGIC!r} version {versions[0]} to {versions[-1]}")
    if count * sum(_widths(version)) > _LARGEST_RATIO * file_size:
        raise ValueError(f"{count} Gaussians announced, more than {file_size} bytes can hold")
    if bits > 23:
        raise ValueError(f"{bits} bits after the point: expected 23 at most")
    return version, count, bits, last


def _array(data: bytes, count: int, width: int) -> np.ndarray:
    if len(data) != count * width:
        raise ValueError(f"cut short: {len(data)} bytes of an attribute that takes {count * width}")
    return np.frombuffer(data, np.uint8).reshape(count, width)


def _half(positions: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(positions).view("<f2").astype(np.float32)  # [N, 3]


def _fixed_point(positions: np.ndarray, bits: int) -> np.ndarray:
    parts = positions.reshape(-1, 3, 3).astype(np.int32)
    value = parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
    value -= (value & 0x800000) << 1  # the sign
    return (value / float(1 << bits)).astype(np.float32)  # [N, 3], exact: 24 bits


def _first_three(rotations: np.ndarray) -> np.ndarray:
    xyz = rotations / 127.5 - 1.0
    w = np.sqrt(np.maximum(0.0, 1.0 - (xyz**2).sum(axis=1, keepdims=True)))
    return np.concatenate((w, xyz), axis=1)  # [N, 4] wxyz


def _smallest_three(rotations: np.ndarray) -> np.ndarray:
    packed = np.ascontiguousarray(rotations).view("<u4")[:, 0]
    fields = np.stack([packed >> np.uint32(shift) for shift in (20, 10, 0)], axis=1)
    amounts = (fields & np.uint32(511)) / 511.0 * np.sqrt(0.5)
    others = np.where(fields & np.uint32(512), -amounts, amounts)
    return np.roll(with_largest((packed >> np.uint32(30)).astype(np.int64), others), 1, axis=1)  # xyzw to wxyz
