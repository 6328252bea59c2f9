"""Rows of text files, a few of them broken."""

from __future__ import annotations

import pytest

from chorus_core.io.errors import ReadError
from chorus_core.io.text_rows import Leniency, read_rows, row_of_numbers


class HereError(ReadError):
    pass


def test_rows_have_their_place_and_comments_are_skipped(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_bytes(b"\xef\xbb\xbf# a b\r\n\r\n1 2\r\n \xff 3\n")
    assert read_rows(path, HereError) == [(f"{path}:3", ["1", "2"]), (f"{path}:4", ["\ufffd", "3"])]


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(HereError, match="No such file"):
        read_rows(tmp_path / "none.txt", HereError)
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(HereError, match="1073741824 bytes: expected at most"):
        read_rows(tmp_path / "large.txt", HereError)


def test_numbers():
    assert row_of_numbers("f:1", ["1", "-inf"], 2, "two", HereError) == [1, float("-inf")]
    for words in (["1"], ["1", "x"], ["1", "2", "3"]):
        with pytest.raises(HereError, match=r"^f:1: expected two"):
            row_of_numbers("f:1", words, 2, "two", HereError)


def test_a_few_are_left_out_and_most_are_refused(caplog):
    few = Leniency("list", HereError)
    few.settle(0)
    for number in range(3):
        few.leave_out(HereError(f"line {number}"))
    few.settle(3)
    assert [record.getMessage() for record in caplog.records] == ["list: 3 of 6 left out: line 0"]
    with pytest.raises(HereError, match=r"line 0 \(3 of 5 like it\)"):
        few.settle(2)
