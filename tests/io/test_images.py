"""Every encoding, padding and byte order; every way of being broken."""

from __future__ import annotations

import array

import numpy as np
import pytest

from chorus_core.io.images import ImageError, color_to_rgb, decode_image, depth_to_metres

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
MILLIMETRES = RNG.integers(0, 9000, (5, 7), np.uint16)


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
        (("nv61", 5, 7, 14, False, bytes(70)), "encoding 'nv61': expected one of rgb8"),
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


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16", "mono16"])
def test_sixteen_bit_color(encoding, big):
    """The full range is brought to 8 bits: 65535 is white."""
    wide = RNG.integers(0, 65536, (5, 7, 3), np.uint16)
    wide[0, 0], wide[0, 1] = 65535, 0
    stored = {"rgb16": wide, "bgr16": wide[:, :, ::-1], "mono16": wide[:, :, :1]}.get(encoding)
    if stored is None:
        stored = np.dstack([wide if encoding == "rgba16" else wide[:, :, ::-1], wide[:, :, 0]])
    data = stored.astype(">u2" if big else "<u2").tobytes()
    rgb = color_to_rgb(decode_image(encoding, 5, 7, 14 * stored.shape[2], big, data), encoding)
    expected = wide if encoding != "mono16" else np.repeat(wide[:, :, :1], 3, axis=2)
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, np.round(expected / 65535 * 255))


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUYV"), ("yuyv", "YUYV")]
)
def test_yuv(encoding, order):
    """Against ITU-R BT.601 in video range, in float64; a pair of pixels shares its two colour differences."""
    y = RNG.integers(16, 236, (6, 8)).astype(np.float64)
    u, v = (np.repeat(RNG.integers(100, 156, (6, 4)), 2, axis=1).astype(np.float64) for _ in range(2))
    stored = np.zeros((6, 8, 2), np.uint8)
    luma = order.index("Y")
    stored[:, :, luma] = y
    stored[:, ::2, 1 - luma], stored[:, 1::2, 1 - luma] = u[:, ::2], v[:, ::2]
    rgb = color_to_rgb(
        decode_image(encoding, 6, 8, 20, False, np.pad(stored.reshape(6, 16), ((0, 0), (0, 4)))), encoding
    )
    c, d, e = 255 / 219 * (y - 16), 255 / 112 * (u - 128), 255 / 112 * (v - 128)
    r, b = c + 0.701 * e, c + 0.886 * d
    g = c - (0.299 * 0.701 * e + 0.114 * 0.886 * d) / 0.587
    assert np.abs(rgb - np.clip(np.dstack([r, g, b]), 0, 255)).max() < 1.6


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(order, bits):
    """Each pixel keeps the colour that was measured there; in a flat image all of them are the same everywhere."""
    image = RNG.integers(0, 256, (8, 10, 3), np.uint8)
    image[4:] = 200, 90, 30
    channels = np.array([["rgb".index(c) for c in order]]).reshape(2, 2)
    which = np.tile(channels, (4, 5))
    mosaic = np.take_along_axis(image, which[:, :, None], 2)[:, :, 0]
    raw = mosaic if bits == 8 else mosaic.astype(np.uint16) * 257
    encoding = f"bayer_{order}{bits}"
    rgb = color_to_rgb(decode_image(encoding, 8, 10, 10 * bits // 8, False, raw.tobytes()), encoding)
    inner = np.s_[1:-1, 1:-1]
    np.testing.assert_array_equal(np.take_along_axis(rgb, which[:, :, None], 2)[:, :, 0][inner], mosaic[inner])
    np.testing.assert_array_equal(rgb[6:, :], np.broadcast_to((200, 90, 30), (2, 10, 3)))


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
        (MILLIMETRES, "16UC1", "encoding '16UC1'"),
        (RGB, "32FC1", "encoding '32FC1'"),
        (RGB, "rgba8", r"expected \[H, W, 4\]"),
        (MILLIMETRES, "rgb8", "colour image is uint16"),
        (RGB[:, :, :2], "yuyv", "7 pixels wide: expected pairs"),
        (RGB[:2, :, 0], "bayer_rggb8", "of 7x2: expected 3x3 pixels"),
    ],
)
def test_wrong_color(image, encoding, message):
    with pytest.raises(ImageError, match=message):
        color_to_rgb(image, encoding)
