"""Text files with a row a line, of which a few may be broken: a disk that was full, a program that was stopped."""

from __future__ import annotations

import logging
from pathlib import Path

from chorus_core.io.errors import ReadError

_log = logging.getLogger(__name__)

_MAX_BYTES = 64 << 20


class Leniency:
    """Counts rows or small files that cannot be parsed: a few are left out with one warning, most are an error.

    Args:
        what: the file or folder, for messages.
        error: raised where most are broken.
    """

    def __init__(self, what: str | Path, error: type[ReadError]) -> None:
        self._what = what
        self._error = error
        self._first: ReadError | None = None
        self.broken = 0

    def leave_out(self, error: ReadError) -> None:
        """One that is broken, and why."""
        self._first = self._first or error
        self.broken += 1

    def settle(self, good: int) -> None:
        """Say what was left out, beside ``good`` ones that were not.

        Raises:
            ReadError: of the kind given: more are broken than good. The message is that of the first.
        """
        if self._first is None:
            return
        if self.broken > good:
            raise self._error(f"{self._first} ({self.broken} of {self.broken + good} like it)") from self._first
        _log.warning("%s: %d of %d left out: %s", self._what, self.broken, self.broken + good, self._first)


def read_rows(path: Path, error: type[ReadError]) -> list[tuple[str, list[str]]]:
    """(place, words) of each line that is neither blank nor a comment (#); a byte order mark is skipped.

    A byte that is no UTF-8 spoils its own line only: it becomes U+FFFD, which no number holds.

    Raises:
        ReadError: of the kind given: no such file, not readable, or of over 64 MiB.
    """
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise error(f"{path} has {size} bytes: expected at most {_MAX_BYTES}")
        lines = path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    except OSError as cause:
        raise error(f"{path}: {cause.strerror}") from cause
    rows = [(f"{path}:{number}", line.split()) for number, line in enumerate(lines, 1)]
    return [(place, words) for place, words in rows if words and not words[0].startswith("#")]


def row_of_numbers(place: str, words: list[str], count: int, form: str, error: type[ReadError]) -> list[float]:
    """A row's numbers, ``inf`` and ``nan`` among them.

    Raises:
        ReadError: of the kind given: not ``count`` of them, as in ``form``.
    """
    if len(words) != count:
        raise error(f"{place}: expected {form}, got {len(words)} words")
    try:
        return [float(word) for word in words]
    except ValueError as cause:
        raise error(f"{place}: expected {form}: {cause}") from cause
