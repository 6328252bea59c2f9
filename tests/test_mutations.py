"""Damaged inputs: the damage is drawn from the seed alone, and readers end in a result or in a documented error."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode does not find them
from mutations import mutate
from readers import Reader, all_readers, documented, files_of

TIMES = 25
MENDED = {
    "TUM folder", "ETH3D folder", "numbered folder", "7-Scenes folder", "12-Scenes folder", "ScanNet folder",
    "Replica folder", "image file", "compressedDepth", "Image", "CompressedImage", "CameraInfo", "vocabulary",
    "configuration", "training scene", "prepared scene", "3DGS .ply", "compressed .ply", "point .ply",
    "point .ply, text", "point .npz", "survey .ply", ".splat", ".spz, gzip", ".spz, zstd", ".npy folder", "saved map",
    "bag, mcap", "bag, sqlite3", "model folder", "model folder, new hash", "released .pth", ".pth weights",
    ".pth weights, before 1.6", ".safetensors weights", "state of a run", "feature file",
    "ENet weights", "embedded teacher", "sentence encoder", "text side",
}  # fmt: skip


def test_the_seed_decides():
    content = bytes(range(256)) * 4
    first = [mutate(content, np.random.default_rng([7, n])) for n in range(200)]
    assert first == [mutate(content, np.random.default_rng([7, n])) for n in range(200)]
    assert len({name for name, _ in first}) > 15 and sum(changed != content for _, changed in first) > 180


@pytest.mark.parametrize("content", [b"", b"x", b"1 2 3\n4 5 6\n", bytes(5000)])
def test_any_content_can_be_damaged(content):
    for number in range(300):
        mutate(content, np.random.default_rng(number))


@pytest.mark.parametrize("reader", [reader for reader in all_readers() if reader.name in MENDED], ids=lambda r: r.name)
def test_damaged_inputs_are_read_or_refused(tmp_path: Path, reader: Reader) -> None:
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    whole.mkdir()
    reader.write(whole)
    reader.read(whole)
    for number in range(TIMES):
        rng = np.random.default_rng([1, number])
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(whole, damaged)
        files = files_of(reader, damaged)
        path = files[int(rng.integers(len(files)))]
        name, content = mutate(path.read_bytes(), rng)
        path.write_bytes(content)
        try:
            reader.read(damaged)
        except Exception as error:
            if not documented(error):
                raise AssertionError(f"{number}: {path.name}: {name}") from error
