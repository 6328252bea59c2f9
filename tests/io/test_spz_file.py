"""``.spz`` files, against a writer that follows the format's page."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode does not find it
from spz_writer import BITS, attributes, random_values, write

from chorus_core.gaussians import SH_C0
from chorus_core.io.any_scene import load_any_scene
from chorus_core.io.spz_file import SpzFormatError, read_spz_rows


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
        (lambda data: data[:-9] + bytes(9) if data[:2] == b"\x1f\x8b" else data[:-40], "a.spz: damaged"),
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
