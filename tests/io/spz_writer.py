"""A writer of ``.spz`` that packs one Gaussian after the other, as the format's page describes it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import zstandard

BITS = 12


def random_values(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    quats = np.random.default_rng(1).normal(size=(count, 4))
    return {
        "means": rng.uniform(-500, 500, (count, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),  # xyzw
        "logs": rng.uniform(-9, 4, (count, 3)),
        "opacities": rng.uniform(size=count),
        "f_dc": rng.uniform(-1.5, 1.5, (count, 3)),
    }


def byte(value: float) -> int:
    return int(min(max(round(value), 0), 255))


def first_three(q: np.ndarray) -> bytes:
    q = q if q[3] >= 0 else -q
    return bytes(byte(value * 127.5 + 127.5) for value in q[:3])


def smallest_three(q: np.ndarray) -> bytes:
    largest = int(np.argmax(np.abs(q)))
    q = q if q[largest] >= 0 else -q
    word = largest
    for place in range(4):
        if place != largest:
            word = word << 10 | (q[place] < 0) << 9 | round(abs(q[place]) * np.sqrt(2) * 511)
    return struct.pack("<I", word)


def attributes(values: dict[str, np.ndarray], version: int, degree: int) -> list[bytes]:
    if version == 1:
        positions = values["means"].astype("<f2").tobytes()
    else:
        fixed = np.rint(values["means"] * 2**BITS).astype(int).ravel()
        positions = b"".join(int(v).to_bytes(3, "little", signed=True) for v in fixed)
    pack = smallest_three if version >= 3 else first_three
    return [
        positions,
        bytes(byte(v * 255) for v in values["opacities"]),
        bytes(byte((v * 0.15 + 0.5) * 255) for v in values["f_dc"].ravel()),
        bytes(byte((v + 10) * 16) for v in values["logs"].ravel()),
        b"".join(pack(q) for q in values["quats"]),
        bytes(len(values["means"]) * (0, 9, 24, 45)[degree]),
    ]


def write(path: Path, values: dict[str, np.ndarray], version: int, degree: int = 1) -> Path:
    parts = [part for part in attributes(values, version, degree) if part]
    last = len(parts) if version == 4 else 0
    header = struct.pack("<4sIIBBBB", b"NGSP", version, len(values["means"]), degree, BITS, 0, last)
    if version < 4:
        path.write_bytes(gzip.compress(header + b"".join(parts)))
        return path
    packed = [zstandard.ZstdCompressor().compress(part) for part in parts]
    gap = b"vendor's"  # extensions may stand between header and table
    table = b"".join(struct.pack("<QQ", len(p), len(part)) for p, part in zip(packed, parts, strict=True))
    path.write_bytes(header + struct.pack("<I12x", 32 + len(gap)) + gap + table + b"".join(packed))
    return path
