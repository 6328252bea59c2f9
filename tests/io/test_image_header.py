"""Form and size by the first bytes, against images that OpenCV and Pillow write."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from chorus_core.io.image_header import MAX_PIXELS, ImageError, ImageHeader, image_header

COLOR = np.random.default_rng(0).integers(0, 256, (24, 37, 3), np.uint8)


@pytest.mark.parametrize(
    ("suffix", "form"), [(".jpg", "jpeg"), (".png", "png"), (".pgm", "pnm"), (".ppm", "pnm"), (".tiff", "tiff")]
)
def test_opencv_images(suffix, form):
    image = COLOR[:, :, 0] if suffix == ".pgm" else COLOR
    assert image_header(cv2.imencode(suffix, image)[1].tobytes()) == ImageHeader(form, 37, 24)


@pytest.mark.parametrize("options", [{"progressive": True}, {"exif": bytes(60_000)}, {"icc_profile": bytes(200_000)}])
def test_jpegs_with_much_before_the_size(options):
    file = io.BytesIO()
    Image.fromarray(COLOR).save(file, "JPEG", **options)
    assert image_header(file.getvalue()) == ImageHeader("jpeg", 37, 24)


def test_a_png_that_is_all_of_one_colour_is_no_bomb():
    """Deflate's best case, a legitimate mask, against the bound on what few bytes can hold."""
    content = cv2.imencode(".png", np.zeros((4000, 4000), np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    assert image_header(content).width == 4000
    with pytest.raises(ImageError, match=r"png image of 4000x4000 in \d+ bytes: damaged or cut short"):
        image_header(content[: len(content) // 2])


def test_a_png_chunk_that_is_longer_than_the_file():
    """OpenCV takes as much memory as it says: half a gigabyte for this one."""
    content = bytearray(cv2.imencode(".png", COLOR)[1].tobytes())
    content[content.index(b"IDAT") - 4] |= 0x20
    with pytest.raises(ImageError, match=r"png image of 37x24 in \d+ bytes: damaged or cut short"):
        image_header(bytes(content))


def test_pnm_with_a_comment():
    assert image_header(b"P5 # by hand\n# 1 2\n37 # wide\n24\n255\n" + bytes(37 * 24)) == ImageHeader("pnm", 37, 24)


@pytest.mark.parametrize("order", "<>")
def test_tiff_of_either_byte_order(order):
    entries = struct.pack(order + "HHIHxx", 256, 3, 1, 37) + struct.pack(order + "HHII", 257, 4, 1, 24)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + struct.pack(order + "H", 2)
    assert image_header(start + entries) == ImageHeader("tiff", 37, 24)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".pgm", ".tiff"])
def test_every_cut_is_a_size_or_a_refusal(suffix):
    whole = cv2.imencode(suffix, COLOR[:, :, 0])[1].tobytes()
    for length in range(min(len(whole), 700)):
        try:
            assert image_header(whole[:length]).width == 37
        except ImageError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "image of 0 bytes that begins with b''"),
        (b"RIFF....WEBP", "expected JPEG, PNG, PNM or TIFF"),
        (b"P5 0 5 255 ", "pnm image of 0x5"),
        (b"P5 5793 5793 255 ", f"expected 1 to {MAX_PIXELS} pixels"),
        (b"P5 999999999 999999999 255 ", "pnm image of 999999999x999999999"),
        (b"\xff\xd8\xff\xd9", "without a frame header"),
    ],
)
def test_refusals(content, message):
    with pytest.raises(ImageError, match=message):
        image_header(content)
