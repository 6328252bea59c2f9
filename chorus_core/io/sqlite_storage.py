"""A ``.db3`` file of rosbag2."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chorus_core.io.sequence import SequenceError
from chorus_core.io.storage import Channel, ScratchFolder, Stored, full_type_name

_log = logging.getLogger(__name__)

SQLITE_MAGIC = b"SQLite format 3\x00"
_JOURNALS = ("-wal", "-journal")


_Row = tuple[int, int, bytes]
_COLUMNS = "topic_id, timestamp, data"
_MOST_ROWS = 1 << 40


class SqliteFile:
    """Reads the messages; the file and what lies beside it stay as they are, in a read-only folder too.

    A recorder that did not end well leaves a journal beside the file (``-wal`` or ``-journal``), without which messages
    are missing or half written. SQLite takes it in by writing, so that is done on a copy.
    """

    def __init__(self, path: Path, scratch: ScratchFolder | None = None) -> None:
        """
        Args:
            path: of the file.
            scratch: folder of this file where it is a copy already.

        Raises:
            sqlite3.Error: damaged, or no rosbag2 tables.
            OSError: not readable, or no room for the copy.
        """
        self._path = path
        self._scratch = scratch
        self._file = self._with_journal(path)
        self._is_whole = True
        with self._database() as database:
            self.channels = self._channels(database)

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Stored | SequenceError]:
        """Messages of some channels by time of recording (of a damaged file, in the order they were written).

        An error stands for what could not be read: a row, the rows of a damaged page, or all that would follow.
        """
        where = f"topic_id IN ({', '.join('?' * len(ids))})"
        values: list[int] = [*ids]
        for bound, condition in ((start, "timestamp >= ?"), (stop, "timestamp < ?")):
            if bound is not None:
                where += f" AND {condition}"
                values.append(bound)
        try:
            with self._database() as database:
                rows = self._by_time if self._is_whole else self._by_page
                for row in rows(database, where, values):
                    if isinstance(row, sqlite3.Error):
                        yield SequenceError(f"{self._path}: damaged: {row}")
                    elif isinstance(row[1], int) and isinstance(row[2], bytes):
                        yield Stored(*row)
                    else:
                        yield SequenceError(f"{self._path}: a row of messages is damaged")
        except sqlite3.Error as error:
            yield SequenceError(f"{self._path}: damaged: {error}")

    @staticmethod
    def _by_time(database: sqlite3.Connection, where: str, values: list[int]) -> Iterator[_Row]:
        yield from database.execute(f"SELECT {_COLUMNS} FROM messages WHERE {where} ORDER BY timestamp", values)

    def _by_page(self, database: sqlite3.Connection, where: str, values: list[int]) -> Iterator[_Row | sqlite3.Error]:
        """Rows in the order they were written; an error for each run of pages that are left out."""
        query = f"SELECT id, {_COLUMNS} FROM messages NOT INDEXED WHERE id >= ? AND {where} ORDER BY id"
        following: int | None = 0
        while following is not None:
            try:
                for row in database.execute(query, [following, *values]):
                    following = row[0] + 1
                    yield row[1:]
                return
            except sqlite3.DatabaseError as error:
                if self._is_cut():  # SQLite takes the pages that are not there for zeros: a row may end in them
                    raise
                # the cursor reads a row ahead: the last one before the damage went with it
                if row := _read_row(database, f"{query} LIMIT 1", [following, *values]):
                    following = row[0] + 1
                    yield row[1:]
                yield error
                following = _behind_damage(database, following)

    def _is_cut(self) -> bool:
        """Whether the file is shorter than its header says (SQLite's file format, section 1.3)."""
        with self._file.open("rb") as file:
            header = file.read(32)
        page = int.from_bytes(header[16:18], "big")
        return self._file.stat().st_size < int.from_bytes(header[28:32], "big") * (1 << 16 if page == 1 else page)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        # immutable: no locks, and no files beside it
        mode = "immutable=1" if self._file == self._path else "mode=rw"
        with closing(sqlite3.connect(f"file:{quote(str(self._file))}?{mode}", uri=True)) as database:
            database.execute("PRAGMA writable_schema=ON")  # without it SQLite refuses a file that is cut short
            database.text_factory = lambda raw: raw.decode("utf-8", "replace")
            yield database

    def _with_journal(self, path: Path) -> Path:
        """The file to open: the given one, or a copy together with its journal."""
        beside = [path.with_name(path.name + suffix) for suffix in _JOURNALS]
        journals = [file for file in beside if file.is_file() and file.stat().st_size > 0]
        if not journals:
            return path
        _log.warning(
            "%s lies beside %s: its recorder did not end well. Both are read, from a copy", journals[0].name, path
        )
        self._scratch = ScratchFolder()
        for file in (path, *journals):
            shutil.copyfile(file, self._scratch.path / file.name)
        return self._scratch.path / path.name

    def _channels(self, database: sqlite3.Connection) -> list[Channel]:
        rows = database.execute("SELECT id, name, type, serialization_format FROM topics ORDER BY id").fetchall()
        try:
            counts = dict(database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
        except sqlite3.DatabaseError as error:
            _log.warning("%s is damaged or cut short (%s): read as far as it goes", self._path, error)
            self._is_whole = False
            counts = {key: 1 for key, *_ in rows}  # nobody knows
        return [
            Channel(key, str(name), full_type_name(str(kind)), str(encoding or ""), counts.get(key, 0))
            for key, name, kind, encoding in rows
        ]


def _behind_damage(database: sqlite3.Connection, damaged: int) -> int | None:
    """The smallest ``id`` above ``damaged`` from which on the next row can be read; None where there is none.

    Looks ahead in steps that double, then halves the last of them: a page holds few rows or many.
    """

    def is_readable(start: int) -> bool:
        query = "SELECT * FROM messages NOT INDEXED WHERE id >= ? ORDER BY id LIMIT 1"
        return _read_row(database, query, [start]) is not None

    step = 1
    while not is_readable(damaged + step):
        step *= 2
        if step > _MOST_ROWS:
            return None
    low, high = damaged + step // 2, damaged + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_readable(middle) else (middle, high)
    return high


def _read_row(database: sqlite3.Connection, query: str, values: list[int]) -> tuple[Any, ...] | None:
    """The first row, empty where there is none; None where it is damaged."""
    try:
        return database.execute(query, values).fetchone() or ()
    except sqlite3.DatabaseError:
        return None
