"""Planar YUV against ITU-R BT.601 in float64, with and without padding, whatever ``step`` says."""

from __future__ import annotations

import numpy as np
import pytest

from chorus_core.io.images import ImageError, color_to_rgb, decode_image

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 6, 8


def planes(encoding: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Luminance [H, W], the second plane as stored [rows, bytes], and the colour they mean, float64 [H, W, 3]."""
    shared = 1 if encoding == "nv24" else 2
    y = RNG.integers(16, 236, (HEIGHT, WIDTH), np.uint8)
    u, v = RNG.integers(100, 156, (2, HEIGHT // shared, WIDTH // shared), np.uint8)
    second = np.dstack([v, u] if encoding == "nv21" else [u, v]).reshape(HEIGHT // shared, -1)
    d, e = (255 / 112 * (np.kron(x, np.ones((shared, shared))) - 128) for x in (u, v))
    c = 255 / 219 * (y.astype(np.float64) - 16)
    rgb = np.dstack([c + 0.701 * e, c - (0.299 * 0.701 * e + 0.114 * 0.886 * d) / 0.587, c + 0.886 * d])
    return y, second, np.clip(rgb, 0, 255)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_planes(encoding, padding):
    y, second, expected = planes(encoding)
    wider = padding * second.shape[1] // WIDTH
    data = np.pad(y, ((0, 0), (0, padding))).tobytes() + np.pad(second, ((0, 0), (0, wider))).tobytes()
    for cut in {0, wider}:  # the last row may come without its padding
        whole = data[: len(data) - cut]
        rgb = color_to_rgb(decode_image(encoding, HEIGHT, WIDTH, WIDTH + padding, False, whole), encoding)
        assert rgb.dtype == np.uint8 and np.abs(rgb - expected).max() < 1.0


@pytest.mark.parametrize("step", [0, WIDTH, WIDTH * 3 // 2, WIDTH * 2])
def test_step_of_data_without_padding_is_of_no_account(step):
    y, second, expected = planes("nv12")
    image = decode_image("nv12", HEIGHT, WIDTH, step, False, y.tobytes() + second.tobytes())
    assert np.abs(color_to_rgb(image, "nv12") - expected).max() < 1.0


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size", "message"),
    [
        ("nv12", 5, 8, 8, 60, "nv12 image of 8x5: expected even sides"),
        ("nv21", 6, 7, 7, 63, "nv21 image of 7x6: expected even sides"),
        ("nv12", 6, 8, 8, 71, "71 bytes of data: expected 72 for 8x6 nv12"),
        ("nv24", 5, 7, 7, 104, "104 bytes of data: expected 105 for 7x5 nv24"),
        ("nv12", 6, 8, 7, 100, "step 7: expected at least 8 bytes"),
        ("nv12", 0, 8, 8, 0, "size 8x0"),
        ("nv24", 2**31, 2**31, 2**31, 10, "10 bytes of data"),
    ],
)
def test_broken(encoding, height, width, step, size, message):
    with pytest.raises(ImageError, match=message):
        decode_image(encoding, height, width, step, False, bytes(size))
