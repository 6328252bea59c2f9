"""Compressed images in every form, and in every way of being broken."""

from __future__ import annotations

import array
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from rvl import rvl

from chorus_core.io.compressed_images import decode_compressed
from chorus_core.io.image_header import ImageError
from chorus_core.io.images import depth_to_metres

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
MILLIMETRES = RNG.integers(1, 9000, (5, 7), np.uint16)


def compressed_depth(image: np.ndarray, quant_a: float = 0.0, quant_b: float = 0.0) -> bytes:
    return struct.pack("<iff", 0, quant_a, quant_b) + cv2.imencode(".png", image)[1].tobytes()


def test_compressed_color():
    smooth = cv2.resize(RGB, (70, 50), interpolation=cv2.INTER_CUBIC)
    png = cv2.imencode(".png", smooth[:, :, ::-1])[1]
    np.testing.assert_array_equal(decode_compressed("rgb8; png compressed bgr8", png.tobytes()), smooth)
    with_alpha = cv2.imencode(".png", cv2.cvtColor(smooth, cv2.COLOR_RGB2BGRA))[1]
    np.testing.assert_array_equal(decode_compressed("png", with_alpha), smooth)
    jpeg = cv2.imencode(".jpg", smooth[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    for format_ in ("jpeg", "jpg", "bgr8; jpeg compressed bgr8", "", "bgr8", "JPEG"):
        decoded = decode_compressed(format_, array.array("B", jpeg.tobytes()))
        assert np.abs(decoded.astype(int) - smooth).mean() < 4, "red and blue must not be swapped"


def test_compressed_depth_millimetres():
    for format_ in ("16UC1; compressedDepth", "16UC1; compressedDepth png"):
        depth = decode_compressed(format_, compressed_depth(MILLIMETRES))
        np.testing.assert_array_equal(depth, MILLIMETRES)
    png = cv2.imencode(".png", MILLIMETRES)[1].tobytes()
    np.testing.assert_array_equal(decode_compressed("16UC1; png compressed", png), MILLIMETRES)


def test_compressed_depth_metres():
    """Quantised by compressed_depth_image_transport's equations: value = a / depth + b."""
    depth = RNG.uniform(0.4, 8, (5, 7)).astype(np.float32)
    quant_a = 100.0 * (100.0 + 1)  # depth_quantization = 100 at depth_max = 10
    quant_b = 1.0 - quant_a / 10.0
    stored = np.round(quant_a / depth + quant_b).astype(np.uint16)
    stored[0, 0] = 0
    decoded = decode_compressed("32FC1; compressedDepth", compressed_depth(stored, quant_a, quant_b))
    assert decoded[0, 0] == 0
    np.testing.assert_allclose(decoded.flat[1:], depth.flat[1:], rtol=1e-3)
    np.testing.assert_array_equal(depth_to_metres(decoded), decoded)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
def test_rvl(share):
    """Against an encoder written from the paper's listing, with holes of every length and equal neighbours."""
    depth = RNG.integers(400, 9000, (48, 61), np.uint16)
    depth[10:20] = 1234
    depth[RNG.random(depth.shape) < share] = 0
    np.testing.assert_array_equal(decode_compressed("16UC1; compressedDepth rvl", rvl(depth)), depth)


@pytest.mark.parametrize(
    ("suffix", "image"),
    [
        (".pgm", MILLIMETRES),
        (".tiff", MILLIMETRES),
        (".tiff", MILLIMETRES.astype(np.float32)),
        (".pgm", RGB[:, :, 0]),
        (".ppm", RGB),
        (".png", RGB),
    ],
)
def test_forms_told_by_their_first_bytes(suffix, image):
    content = cv2.imencode(suffix, image[:, :, ::-1] if image.ndim == 3 else image)[1].tobytes()
    decoded = decode_compressed("", content)
    assert decoded.dtype == image.dtype
    np.testing.assert_array_equal(decoded, image)


def test_color_of_sixteen_bits():
    wide = RGB.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_compressed("png", cv2.imencode(".png", wide[:, :, ::-1])[1]), RGB)


def test_an_image_that_asks_for_too_much_is_refused_before_it_is_decoded():
    """A PNG of 25 kB whose pixels would take 1.2 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000_000), 9))
        + chunk(b"IEND", b"")
    )
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"png image of 20000x20000: expected 1 to 33554432 pixels"):
        decode_compressed("png", png)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("format_", "data", "message"),
    [
        ("h264", b"\x00\x01", r"format 'h264': image of 2 bytes that begins with b'\\x00\\x01': expected JPEG, PNG"),
        ("", b"\x00\x01", "^image of 2 bytes that begins"),
        ("jpeg", b"", "format 'jpeg': image of 0 bytes"),
        ("jpeg", b"not a jpeg", "begins with b'not a jp'"),
        ("png", cv2.imencode(".png", RGB)[1].tobytes()[:-30], r"in \d+ bytes: damaged or cut short"),
        ("png", cv2.imencode(".png", RGB)[1].tobytes()[:40], "7x5 in 40 bytes: damaged or cut short"),
        ("16UC1; compressedDepth", b"\x00" * 12, "12 bytes: expected a header"),
        ("16UC1; compressedDepth RVL", b"\x00" * 40, "RVL image of 0x0"),
        ("16UC1; compressedDepth rvl", b"\x00" * 15, "RVL image of 3 bytes"),
        ("16UC1; compressedDepth rvl", b"\x00" * 12 + struct.pack("<II", 2**31, 2**31), "RVL image of 2147483648x"),
        ("16UC1; compressedDepth rvl", rvl(MILLIMETRES)[:-8], "RVL image of 7x5: cut short or damaged"),
        ("16UC1; compressedDepth rvl", rvl(MILLIMETRES)[:20] + b"\xff" * 40, "RVL image of 7x5: cut short or damaged"),
        ("16UC1; compressedDepth", compressed_depth(RGB), r"uint8 \(5, 7, 3\): expected uint16"),
        ("32FC1; compressedDepth", compressed_depth(MILLIMETRES), "quantisation a = 0.0"),
        ("32FC1; compressedDepth", compressed_depth(MILLIMETRES, np.nan, 0), "quantisation a = nan"),
    ],
)
def test_broken_compressed_images(format_, data, message):
    with pytest.raises(ImageError, match=message):
        decode_compressed(format_, data)
