"""What parsers raise becomes one documented error, in one line."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path
from zipfile import BadZipFile

import pytest

from chorus_core.io.errors import ReadError, reading


class PartError(ReadError):
    pass


@pytest.mark.parametrize(
    "cause",
    [BadZipFile("no"), KeyError("x"), zlib.error("bad\nlines"), OverflowError(), RecursionError("deep"),
     struct.error("short"), MemoryError(), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), OSError("not gzip")],
    ids=lambda cause: type(cause).__name__,
)  # fmt: skip
def test_whatever_a_parser_raises(cause: Exception) -> None:
    with (
        pytest.raises(PartError, match=r"^a/b\.ply: damaged or of another form: ") as caught,
        reading("a/b.ply", PartError),
    ):
        raise cause
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is cause
    assert isinstance(caught.value, ValueError)


def test_what_passes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), reading("x"):
        (tmp_path / "absent").read_bytes()
    with pytest.raises(PartError, match=r"^said already$"), reading("x"):
        raise PartError("said already")
    with pytest.raises(KeyboardInterrupt), reading("x"):
        raise KeyboardInterrupt


def test_a_message_is_one_short_printable_line() -> None:
    error = ReadError("a.txt: '\x1b[2J\n\udc80ü" + "x" * 10**6 + "': expected less")
    assert str(error).startswith(r"a.txt: '\x1b[2J\n\udc80ü") and str(error).endswith("xxx': expected less")
    assert str(error).isprintable() and len(str(error)) < 2000
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
