"""A writer of compressed_depth_image_transport's RVL form, after the listing in Wilson's paper (2017)."""

from __future__ import annotations

import struct

import numpy as np


def rvl(image: np.ndarray) -> bytes:
    """Wilson's encoder, a number of 4-bit groups at a time."""
    groups: list[int] = []

    def number(value: int) -> None:
        while True:
            group, value = value & 7, value >> 3
            groups.append(group | 8 if value else group)
            if not value:
                return

    pixels, at, previous = image.reshape(-1).tolist(), 0, 0
    while at < len(pixels):
        zeros = at
        while at < len(pixels) and pixels[at] == 0:
            at += 1
        number(at - zeros)
        first = at
        while at < len(pixels) and pixels[at] != 0:
            at += 1
        number(at - first)
        for pixel in pixels[first:at]:
            difference = pixel - previous
            number(2 * difference if difference >= 0 else -2 * difference - 1)
            previous = pixel
    groups += [0] * (-len(groups) % 8)
    words = [sum(group << (28 - 4 * k) for k, group in enumerate(groups[i : i + 8])) for i in range(0, len(groups), 8)]
    size = struct.pack("<II", image.shape[1], image.shape[0])
    return struct.pack("<iff", 1, 0, 0) + size + struct.pack(f"<{len(words)}I", *words)
