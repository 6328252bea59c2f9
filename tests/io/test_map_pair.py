"""Features stay as long as a ``.ply`` in their folder names them."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
from small_maps import legacy, save, seed_of, small_map

from chorus_core.io.map_file import move_map, save_bare_map


def test_features_that_another_ply_names_stay(tmp_path: Path) -> None:
    """The map was renamed, or copied, before it was made again; what the copy names goes with the last copy."""
    path, renamed, copy = (tmp_path / name for name in ("map.ply", "old.ply", "backup.PLY"))
    save(path, small_map(1)).rename(renamed)
    save(path, small_map(2))
    shutil.copy(path, copy)
    (tmp_path / "noise.ply").write_bytes(os.urandom(100))
    (tmp_path / "folder.ply").mkdir()
    os.mkfifo(tmp_path / "pipe.ply")
    (tmp_path / "gone.ply").symlink_to("nowhere")
    save(path, small_map(3))
    assert [seed_of(p) for p in (renamed, copy, path)] == [1, 2, 3]
    renamed.unlink()
    save_bare_map(path, small_map(4).gaussians)
    assert seed_of(copy) == 2
    assert len(list(tmp_path.glob("*.features.npz"))) == 1


def test_a_copy_keeps_its_features_where_the_map_moves_away(tmp_path: Path) -> None:
    path = save(tmp_path / "map.ply", small_map(1))
    shutil.copy(path, tmp_path / "backup.ply")
    moved = move_map(path, tmp_path / "out" / "map.ply")
    assert [seed_of(p) for p in (tmp_path / "backup.ply", moved)] == [1, 1]
    again = move_map(moved, tmp_path / "out" / "kitchen.ply")
    assert seed_of(again) == 1
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_headers_alone_are_read_to_find_what_others_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "map.ply", small_map(1))
    for number in range(50):
        legacy(tmp_path / f"other{number}.ply", small_map(2, count=2000))
    read = []
    plain = io.BufferedReader.read
    real = Path.open

    class Counting(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            read.append(len(found := plain(self, size)))
            return found

    def counted(path: Path, mode: str = "r", *more: object) -> object:
        return Counting(io.FileIO(path)) if mode == "rb" else real(path, mode, *more)

    monkeypatch.setattr(Path, "open", counted)
    save(tmp_path / "map.ply", small_map(3))
    monkeypatch.undo()
    assert 50 <= len(read) <= 52
    assert sum(read) <= 52 * 4096
    assert seed_of(tmp_path / "map.ply") == 3
