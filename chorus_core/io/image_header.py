"""Form and size of a JPEG, PNG, PNM or TIFF image from its first bytes, before anything is decoded.

A decoder allocates what the header asks for: a PNG of 1 MB can ask for gigabytes.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from chorus_core.io.errors import ReadError, reading

MAX_PIXELS = 1 << 25
"""Of an image at most; 8K video (7680 x 4320) lies just below."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEFLATE = 1032
_TIFF = {b"II*\x00": "<", b"MM\x00*": ">"}
_PNM = re.compile(rb"P[2356](?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)+(\d{1,9})(?:\s|#[^\n]*\n)")
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG's frame header (SOF0 to SOF15); the three left out hold tables."""


class ImageError(ReadError):
    """An image that cannot be decoded. The message names the encoding or field, the value and the expected form."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself: ``form`` is jpeg, png, pnm or tiff."""

    form: str
    width: int
    height: int


def image_header(content: bytes) -> ImageHeader:
    """Form, width and height of an image file from its bytes, told by the first of them and by no name.

    Raises:
        ImageError: of another form, cut short within the header, without pixels, or of over :data:`MAX_PIXELS`.
    """
    with reading("image", ImageError):
        header = _parse(content)
    if header.width < 1 or header.height < 1 or header.width * header.height > MAX_PIXELS:
        raise ImageError(
            f"{header.form} image of {header.width}x{header.height}: expected 1 to {MAX_PIXELS} pixels (2^25)"
        )
    return header


def _parse(content: bytes) -> ImageHeader:
    if content.startswith(_PNG):
        return _png(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content[:4] in _TIFF:
        return _tiff(content, _TIFF[content[:4]])
    if found := _PNM.match(content[:4096]):
        return ImageHeader("pnm", int(found[1]), int(found[2]))
    begin = bytes(content[:8])
    raise ImageError(f"image of {len(content)} bytes that begins with {begin!r}: expected JPEG, PNG, PNM or TIFF")


def _png(content: bytes) -> ImageHeader:
    """The first chunk (PNG, section 11.2.2). Deflate packs 1032 to 1 at best, so few bytes cannot hold many pixels.

    The lengths of all chunks (section 5.3) are looked at, too: a decoder allocates what they say.
    """
    width, height, bits, color_type = struct.unpack_from(">IIBB", content, 16)
    row = width * bits * _PNG_CHANNELS.get(color_type, 1) // 8
    if width * height <= MAX_PIXELS and row * height > _DEFLATE * len(content):
        raise ImageError(f"png image of {width}x{height} in {len(content)} bytes: damaged or cut short")
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, at) if at + 8 <= len(content) else (len(content), b"")
        at += length + 12
        if at > len(content):
            raise ImageError(f"png image of {width}x{height} in {len(content)} bytes: damaged or cut short")
    return ImageHeader("png", width, height)


def _jpeg(content: bytes) -> ImageHeader:
    """Steps from marker to marker up to the frame header (ITU-T T.81, annex B)."""
    at = 2
    while True:
        at = content.index(b"\xff", at)
        marker = content[at + 1]
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return ImageHeader("jpeg", width, height)
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
        elif marker in (0xD9, 0xDA):
            raise ImageError("jpeg image without a frame header")
        else:
            at += 2 + struct.unpack_from(">H", content, at + 2)[0]


def _tiff(content: bytes, order: str) -> ImageHeader:
    """The first directory's tags 256 and 257 (TIFF 6.0, sections 2 and 8)."""
    (offset,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, offset)
    sizes = {}
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind, _ = struct.unpack_from(order + "HHI", content, entry)
        if tag in (256, 257):
            (sizes[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), content, entry + 8)
    return ImageHeader("tiff", sizes[256], sizes[257])
