"""``.spz`` files, against a writer that packs one Gaussian after the other as the format's page describes it."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from scipy.spatial.transform import Rotation

from chorus_core.gaussians import SH_C0
from chorus_core.io.any_scene import load_any_scene
from chorus_core.io.spz_file import SpzFormatError, read_spz_rows

BITS = 12


def random_values(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "means": rng.uniform(-500, 500, (count, 3)),
        "quats": Rotation.random(count, rng=1).as_quat(),  # xyzw
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


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("degree", [0, 3])
def test_what_was_written_comes_back(version: int, degree: int, tmp_path: Path) -> None:
    values = random_values(300)
    scene = load_any_scene(write(tmp_path / "a.spz", values, version, degree))
    g = scene.content
    assert scene.kept.all()
    positions = values["means"].astype(np.float16) if version == 1 else values["means"]
    assert np.abs(g.means.numpy() - positions).max() <= 0.5001 / 2**BITS
    assert np.abs(np.log(g.scales.numpy()) - values["logs"]).max() <= 0.501 / 16
    assert np.abs(g.opacities.numpy() - values["opacities"]).max() <= 0.501 / 255
    colors = np.clip(0.5 + SH_C0 * values["f_dc"], 0, 1)
    assert np.abs(g.colors.numpy() - colors).max() <= 0.501 / 255 / 0.15 * SH_C0
    found = Rotation.from_quat(g.quats.numpy(), scalar_first=True)
    off = (found.inv() * Rotation.from_quat(values["quats"])).magnitude()
    assert np.median(off) < np.deg2rad(0.2 if version >= 3 else 1)
    assert off.max() < np.deg2rad(0.4 if version >= 3 else 10), "w follows from three bytes, badly where it is small"


def test_words_put_together_by_hand(tmp_path: Path) -> None:
    values = {name: array[:2] for name, array in random_values(2).items()}
    parts = attributes(values, 3, 0)
    parts[0] = bytes.fromhex("001000 00f0ff 000000 ffff7f 000080 010000")
    parts[4] = struct.pack("<II", 3 << 30, 0 << 30 | 511 << 20 | 512 << 10)
    header = struct.pack("<4sIIBBBB", b"NGSP", 3, 2, 0, BITS, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(header + b"".join(parts)))
    rows = read_spz_rows(tmp_path / "a.spz")
    assert rows.means.tolist() == [[1, -1, 0], [2048 - 2**-12, -2048, 2**-12]]
    np.testing.assert_allclose(rows.quats, [[1, 0, 0, 0], [0, np.sqrt(0.5), np.sqrt(0.5), 0]], atol=1e-12)


def test_its_vertical_is_said_to_be_taken_for_z(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_any_scene(write(tmp_path / "a.spz", random_values(3), 2))
    assert "a.spz: taken as it is stored; scenes are read with z up" in caplog.text


@pytest.mark.parametrize("version", [2, 4])
def test_nothing_in_it(version: int, tmp_path: Path) -> None:
    assert len(load_any_scene(write(tmp_path / "a.spz", random_values(0), version)).content) == 0


def with_header(data: bytes, at: int, value: bytes) -> bytes:
    raw = data if data[:4] == b"NGSP" else gzip.decompress(data)
    raw = raw[:at] + value + raw[at + len(value) :]
    return raw if data[:4] == b"NGSP" else gzip.compress(raw)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"", "neither a gzip stream nor 'NGSP'"),
        (lambda data: b"PK\x03\x04" + data, "neither a gzip stream nor 'NGSP'"),
        (lambda data: data[:30], "a.spz: damaged"),
        (lambda data: data[: len(data) // 2], "a.spz: damaged"),
        (lambda data: with_header(data, 4, b"\x09"), "version 9: expected b'NGSP' version"),
        (lambda data: with_header(data, 8, b"\xff\xff\xff\xff"), "4294967295 Gaussians announced, more than"),
        (lambda data: with_header(data, 8, b"\x2d"), "cut short"),
        (lambda data: with_header(data, 13, b"\x28"), "40 bits after the point"),
    ],
)
def test_damaged_ones_are_refused(version: int, spoil: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.spz", random_values(40), version, degree=0)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(SpzFormatError, match=message):
        load_any_scene(path)
