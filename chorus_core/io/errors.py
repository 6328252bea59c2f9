"""The one kind of error that every reader of outside data ends in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 300
"""Characters of a library's own message."""

_MESSAGE = 1600
"""Characters of a whole message; a name that is quoted may have any number."""


class ReadError(ValueError):
    """Outside data that cannot be used: damaged, cut short, of another form, or too large.

    Errors of single readers derive from it. The message is one line that names the file (or topic) and what is wrong:
    what the file holds may be quoted in it, so control characters are escaped and the middle of a long one is left out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(_printable(str(message)))


@contextmanager
def reading(what: str | Path, error: type[ReadError] = ReadError) -> Iterator[None]:
    """Turn whatever a library raises over damaged bytes into ``error``, in one line that begins with ``what``.

    Parsers raise what they meet first: ``KeyError``, ``BadZipFile``, ``struct.error``, ``OverflowError``,
    ``RecursionError``, ``MemoryError`` over a size in a header, and more. A :class:`ReadError` passes unchanged, and so
    does an ``OSError`` that names a file (missing, not readable, a folder): it is no fault of the content.
    """
    try:
        yield
    except ReadError:
        raise
    except OSError as cause:
        if cause.filename is not None:
            raise
        raise error(f"{what}: {_in_one_line(cause)}") from cause
    except Exception as cause:
        raise error(f"{what}: {_in_one_line(cause)}") from cause


def _printable(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= _MESSAGE else f"{text[: _MESSAGE - 305]} ... {text[-300:]}"


def _in_one_line(cause: BaseException) -> str:
    text = " ".join(str(cause).split())[:_LONGEST] or "no more is known"
    return f"damaged or of another form: {type(cause).__name__}: {text}"
