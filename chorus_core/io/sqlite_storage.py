"""A ``.db3`` file of rosbag2."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from chorus_core.io.sequence import SequenceError
from chorus_core.io.storage import Channel, ScratchFolder, Stored, full_type_name

_log = logging.getLogger(__name__)

SQLITE_MAGIC = b"SQLite format 3\x00"
_JOURNALS = ("-wal", "-journal")


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

        Ends with an error where the rest cannot be read.
        """
        where = f"topic_id IN ({', '.join('?' * len(ids))})"
        values = [*ids]
        for bound, condition in ((start, "timestamp >= ?"), (stop, "timestamp < ?")):
            if bound is not None:
                where += f" AND {condition}"
                values.append(bound)
        table, order = ("messages", "ORDER BY timestamp") if self._is_whole else ("messages NOT INDEXED", "")
        query = f"SELECT topic_id, timestamp, data FROM {table} WHERE {where} {order}"
        try:
            with self._database() as database:
                for channel, log_time, data in database.execute(query, values):
                    if isinstance(log_time, int) and isinstance(data, bytes):
                        yield Stored(channel, log_time, data)
                    else:
                        yield SequenceError(f"{self._path}: a row of messages is damaged")
        except sqlite3.Error as error:
            yield SequenceError(f"{self._path}: damaged: {error}")

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
