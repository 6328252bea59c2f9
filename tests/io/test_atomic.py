"""A file is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chorus_core.io.atomic import atomic_path, check_target


def test_appears_at_the_end(tmp_path):
    target = tmp_path / "new" / "map.ply"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".ply"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_old_file_survives_a_failure(tmp_path):
    target = tmp_path / "map.ply"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "map.ply"):
        pass


def test_two_writers_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(OSError, match=f"/{name}'"), atomic_path(tmp_path / name):
            pytest.fail("the block is not entered")
        with pytest.raises(OSError, match=f"/{name}'"):
            check_target(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert {p.name for p in tmp_path.iterdir()} == {"pipe", "folder", "link"}


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for name, content in (("old", "old"), ("none_yet", None)):
        file, link = tmp_path / "far" / name, tmp_path / f"{name}.ply"
        if content is not None:
            file.write_text(content)
        link.symlink_to(file)
        with atomic_path(link) as temporary:
            assert temporary.suffix == ".ply"
            temporary.write_text("new")
        assert link.is_symlink()
        assert file.read_text() == "new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"), atomic_path(tmp_path / "loop"):
        pass


def test_a_target_is_checked_without_being_made(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "folders" / "map.ply")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("old")
    check_target(tmp_path / "file")
    for below in ("file/map.ply", "file/more/map.ply"):
        with pytest.raises(NotADirectoryError, match=below):
            check_target(tmp_path / below)
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_that_is_read_only_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder) != tmp_path)  # root may write anywhere
    with pytest.raises(PermissionError, match=r"denied in .*: '.*/new/map\.ply'"):
        check_target(tmp_path / "new" / "map.ply")
