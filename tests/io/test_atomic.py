"""A file is there whole or not at all."""

from __future__ import annotations

import pytest

from chorus_core.io.atomic import atomic_path


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
