"""Every encoding, padding and byte order; every way of being broken."""

from __future__ import annotations

import array
import struct

import cv2
import numpy as np
import pytest

from chorus_core.io.images import ImageError, color_to_rgb, decode_compressed, decode_image, depth_to_metres

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
MILLIMETRES = RNG.integers(0, 9000, (5, 7), np.uint16)


def compressed_depth(image: np.ndarray, quant_a: float = 0.0, quant_b: float = 0.0) -> bytes:
    return struct.pack("<iff", 0, quant_a, quant_b) + cv2.imencode(".png", image)[1].tobytes()


@pytest.mark.parametrize("padding", [0, 9])
@pytest.mark.parametrize(
    ("encoding", "stored"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[:, :, ::-1]),
        ("rgba8", np.dstack([RGB, RGB[:, :, 0]])),
        ("bgra8", np.dstack([RGB[:, :, ::-1], RGB[:, :, 0]])),
        ("8UC3", RGB[:, :, ::-1]),
    ],
)
def test_color(encoding, stored, padding):
    row = 7 * stored.shape[2]
    rows = np.full((5, row + padding), 77, np.uint8)
    rows[:, :row] = stored.reshape(5, row)
    for data in (rows.tobytes(), memoryview(rows.tobytes()), array.array("B", rows.tobytes()), rows.reshape(-1)):
        image = decode_image(encoding, 5, 7, row + padding, False, data)
        np.testing.assert_array_equal(image, stored)
        rgb = color_to_rgb(image, encoding)
        np.testing.assert_array_equal(rgb, RGB)
        assert rgb.flags.c_contiguous


def test_last_row_may_lack_its_padding():
    rows = np.zeros((5, 32), np.uint8)
    rows[:, :21] = RGB.reshape(5, 21)
    np.testing.assert_array_equal(decode_image("rgb8", 5, 7, 32, 0, rows.tobytes()[:-11]), RGB)


def test_grey_is_repeated():
    grey = RGB[:, :, 0]
    image = decode_image("mono8", 5, 7, 7, False, grey.tobytes())
    np.testing.assert_array_equal(color_to_rgb(image, "mono8"), np.dstack([grey] * 3))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["16UC1", "mono16"])
def test_depth_in_millimetres(encoding, big):
    stored = MILLIMETRES.copy()
    stored[0, :2] = 0, 65535
    data = stored.astype(">u2" if big else "<u2").tobytes()
    metres = depth_to_metres(decode_image(encoding, 5, 7, 14, big, data), encoding)
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres, np.where(stored == 65535, 0, stored / 1000), rtol=1e-6)


@pytest.mark.parametrize("big", [False, True])
def test_depth_in_metres(big):
    stored = RNG.uniform(0, 9, (5, 7)).astype(np.float32)
    stored[0, :4] = np.nan, np.inf, -1, -np.inf
    data = stored.astype(">f4" if big else "<f4").tobytes()
    metres = depth_to_metres(decode_image("32FC1", 5, 7, 28, big, data), "32FC1")
    assert (metres[0, :4] == 0).all()
    np.testing.assert_array_equal(metres[1:], stored[1:])


def test_raw_images_are_not_copied():
    data = RGB.tobytes()
    assert np.shares_memory(decode_image("rgb8", 5, 7, 21, False, data), np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("yuv422", 5, 7, 14, False, bytes(70)), "encoding 'yuv422': expected one of rgb8"),
        (("", 5, 7, 14, False, bytes(70)), "encoding ''"),
        (("rgb8", 0, 7, 21, False, b""), "size 7x0"),
        (("rgb8", 5, -7, 21, False, bytes(105)), "size -7x5"),
        (("rgb8", 5, 7, 20, False, bytes(105)), "step 20: expected at least 21"),
        (("16UC1", 5, 7, 7, False, bytes(35)), "step 7: expected at least 14"),
        (("rgb8", 5, 7, 21, False, bytes(104)), "104 bytes of data: expected 105"),
        (("rgb8", 2**31, 2**31, 2**33, False, bytes(10)), "10 bytes of data"),
    ],
)
def test_broken_raw_images(arguments, message):
    with pytest.raises(ImageError, match=message):
        decode_image(*arguments)


def test_compressed_color():
    smooth = cv2.resize(RGB, (70, 50), interpolation=cv2.INTER_CUBIC)
    png = cv2.imencode(".png", smooth[:, :, ::-1])[1]
    np.testing.assert_array_equal(decode_compressed("rgb8; png compressed bgr8", png.tobytes()), smooth)
    with_alpha = cv2.imencode(".png", cv2.cvtColor(smooth, cv2.COLOR_RGB2BGRA))[1]
    np.testing.assert_array_equal(decode_compressed("png", with_alpha), smooth)
    jpeg = cv2.imencode(".jpg", smooth[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1]
    for format_ in ("jpeg", "jpg", "bgr8; jpeg compressed bgr8"):
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


@pytest.mark.parametrize(
    ("format_", "data", "message"),
    [
        ("h264", b"\x00\x01", "format 'h264': expected jpeg, png or compressedDepth"),
        ("", b"\x00\x01", "format ''"),
        ("jpeg", b"", "jpeg image of 0 bytes does not decode"),
        ("jpeg", b"not a jpeg", "does not decode"),
        ("png", cv2.imencode(".png", RGB)[1].tobytes()[:40], "does not decode"),
        ("16UC1; compressedDepth", b"\x00" * 12, "12 bytes: expected a header"),
        ("16UC1; compressedDepth RVL", b"\x00" * 40, "RVL"),
        ("16UC1; compressedDepth", compressed_depth(RGB), r"uint8 \(5, 7, 3\): expected uint16"),
        ("32FC1; compressedDepth", compressed_depth(MILLIMETRES), "quantisation a = 0.0"),
        ("32FC1; compressedDepth", compressed_depth(MILLIMETRES, np.nan, 0), "quantisation a = nan"),
    ],
)
def test_broken_compressed_images(format_, data, message):
    with pytest.raises(ImageError, match=message):
        decode_compressed(format_, data)


@pytest.mark.parametrize(
    ("image", "encoding", "message"),
    [
        (MILLIMETRES, "32FC1", "uint16 .*expected float32"),
        (MILLIMETRES.astype(np.float32), "16UC1", "float32 .*expected uint16"),
        (MILLIMETRES, "64FC1", "depth encoding '64FC1'"),
        (RGB, None, "depth encoding 'uint8'"),
        (np.zeros((2, 2, 2), np.uint16), None, r"\(2, 2, 2\)"),
    ],
)
def test_wrong_depth(image, encoding, message):
    with pytest.raises(ImageError, match=message):
        depth_to_metres(image, encoding)


@pytest.mark.parametrize(
    ("image", "encoding", "message"),
    [
        (MILLIMETRES, "16UC1", "uint16"),
        (RGB, "32FC1", "encoding '32FC1'"),
        (RGB, "rgba8", r"expected \[H, W, 4\]"),
    ],
)
def test_wrong_color(image, encoding, message):
    with pytest.raises(ImageError, match=message):
        color_to_rgb(image, encoding)
