"""An ``.mcap`` file (https://mcap.dev/spec), whole or cut short, indexed or not."""

from __future__ import annotations

import heapq
import logging
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from mcap import records
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.stream_reader import get_chunk_data_stream
from mcap.summary import Summary

from chorus_core.io.errors import ReadError, reading
from chorus_core.io.sequence import SequenceError
from chorus_core.io.storage import Channel, ScratchFolder, Stored, full_type_name

_log = logging.getLogger(__name__)

MCAP_MAGIC = b"\x89MCAP0\r\n"
_PREFIX = struct.Struct("<BQ")  # opcode and length of a record
_CHANNEL_ID = struct.Struct("<H")
_FOOTER = struct.Struct("<BQQQI")  # opcode, length, starts of the summary and of its offsets, checksum
_MAX_CHUNK = 1 << 31  # bytes, unpacked; recorders make chunks of a few megabytes


@dataclass(frozen=True)
class _Part:
    """A chunk, or a message outside any chunk: where its content lies, and what of it is known."""

    offset: int
    length: int
    start: int
    end: int
    channels: frozenset[int] | None


class McapFile:
    """Reads the messages chunk by chunk. A damaged chunk costs the messages in it, a missing end those after it."""

    def __init__(self, path: Path, scratch: ScratchFolder | None = None) -> None:
        """
        Args:
            path: of the file.
            scratch: folder of this file where it is a temporary copy.

        Raises:
            OSError: not readable.
        """
        self._path = path
        self._scratch = scratch
        self._size = path.stat().st_size
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, records.Channel] = {}
        self._counts = Counter[int]()
        self._parts: list[_Part] = []
        with path.open("rb") as stream:
            summary = self._summary(stream)
            if summary is None:
                self._scan(stream)
            else:
                self._take(summary)
        self._parts.sort(key=lambda part: (part.start, part.offset))
        self.channels = [self._channel(channel) for channel in self._channels.values()]

    def messages(
        self, ids: Collection[int], start: int | None = None, stop: int | None = None
    ) -> Iterator[Stored | SequenceError]:
        """Messages of some channels by time of recording, with an error in place of each damaged chunk."""
        begin, end = start if start is not None else 0, stop if stop is not None else 1 << 64
        # chunks may overlap in time: a message waits until no later chunk can hold an earlier one
        waiting: list[tuple[int, int, Stored]] = []
        wanted, number = frozenset(ids), 0
        with self._path.open("rb") as stream:
            for part in self._parts:
                if part.end < begin or part.start >= end or not (part.channels is None or part.channels & wanted):
                    continue
                while waiting and waiting[0][0] <= part.start:
                    yield heapq.heappop(waiting)[2]
                try:
                    with reading(f"{self._path}: chunk at byte {part.offset}", SequenceError):
                        for opcode, body in self._records(stream, part):
                            if opcode != Opcode.MESSAGE or _CHANNEL_ID.unpack_from(body)[0] not in wanted:
                                continue
                            stored = _message(body)
                            if begin <= stored.log_time < end:
                                heapq.heappush(waiting, (stored.log_time, number, stored))
                                number += 1
                except SequenceError as error:
                    yield error
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _records(self, stream: BinaryIO, part: _Part) -> Iterator[tuple[int, bytes]]:
        """Opcode and content of the records in a part."""
        stream.seek(part.offset - _PREFIX.size)
        opcode, length = _PREFIX.unpack(stream.read(_PREFIX.size))
        body = stream.read(part.length)
        if opcode != Opcode.CHUNK:
            yield opcode, body
            return
        chunk = records.Chunk.read(ReadDataStream(BytesIO(body)))
        if chunk.uncompressed_size > _MAX_CHUNK:
            raise SequenceError(
                f"{self._path}: chunk of {chunk.uncompressed_size} bytes: expected {_MAX_CHUNK} at most"
            )
        is_whole = length == len(body)
        if is_whole or chunk.compression:
            content = get_chunk_data_stream(chunk, validate_crc=True)[0].read(chunk.uncompressed_size)
        else:
            content = chunk.data
        offset = 0
        while offset + _PREFIX.size <= len(content):
            opcode, length = _PREFIX.unpack_from(content, offset)
            offset += _PREFIX.size
            if offset + length > len(content):
                break
            yield opcode, content[offset : offset + length]
            offset += length
        if offset != len(content) and is_whole:
            raise SequenceError(f"{self._path}: chunk at byte {part.offset} ends within a record")

    def _summary(self, stream: BinaryIO) -> Summary | None:
        """The index at the end, or None where it is missing, damaged, or does not hold all that is needed."""
        try:
            stream.seek(-(_FOOTER.size + len(MCAP_MAGIC)), 2)
            footer = stream.read(_FOOTER.size)
            opcode, _, begin, _, checksum = _FOOTER.unpack(footer)
            if opcode != Opcode.FOOTER or stream.read() != MCAP_MAGIC or begin == 0:
                return None
            stream.seek(begin)
            content = stream.read(self._size - len(MCAP_MAGIC) - 4 - begin)
            if checksum and zlib.crc32(content) != checksum:
                _log.warning("%s: the index is damaged; the messages are looked for", self._path)
                return None
            stream.seek(0)
            summary = SeekingReader(stream).get_summary()
        except Exception as error:  # the library raises whatever it meets first
            _log.debug("%s: no index: %s", self._path, error)
            return None
        if summary is None or summary.statistics is None:
            return None
        statistics = summary.statistics
        counts = statistics.channel_message_counts
        complete = statistics.chunk_count == len(summary.chunk_indexes) > 0 and set(counts) <= set(summary.channels)
        return summary if complete and sum(counts.values()) == statistics.message_count else None

    def _take(self, summary: Summary) -> None:
        self._schemas = {key: schema.name for key, schema in summary.schemas.items()}
        self._channels = dict(summary.channels)
        assert summary.statistics is not None
        self._counts.update(summary.statistics.channel_message_counts)
        for index in summary.chunk_indexes:
            offset, length = index.chunk_start_offset + _PREFIX.size, index.chunk_length - _PREFIX.size
            channels = frozenset(index.message_index_offsets) or None
            self._parts.append(_Part(offset, length, index.message_start_time, index.message_end_time, channels))

    def _scan(self, stream: BinaryIO) -> None:
        """Find channels and messages without the index, as far as the file goes."""
        offset, is_whole, is_data = len(MCAP_MAGIC), False, True
        while not is_whole and offset + _PREFIX.size <= self._size:
            stream.seek(offset)
            opcode, length = _PREFIX.unpack(stream.read(_PREFIX.size))
            offset += _PREFIX.size
            there = min(length, self._size - offset)
            is_whole = opcode == Opcode.FOOTER and offset + length + len(MCAP_MAGIC) == self._size
            is_data = is_data and opcode != Opcode.DATA_END  # channels are repeated after it, not as safe
            is_part = opcode in (Opcode.CHUNK, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE)
            if is_data and is_part and (there == length or opcode == Opcode.CHUNK):
                self._scan_part(stream, _Part(offset, there, 0, 0, None))
            offset += length
        if not is_whole:
            _log.warning(
                "%s is cut short or damaged: its recorder did not end well. Read as far as it goes, %d messages; "
                "`mcap recover` makes a whole file of it",
                *(self._path, self._counts.total()),
            )

    def _scan_part(self, stream: BinaryIO, part: _Part) -> None:
        times: list[int] = []
        counts = Counter[int]()
        is_damaged = False
        try:
            with reading(f"{self._path}: record at byte {part.offset}", ReadError):
                for opcode, body in self._records(stream, part):
                    if opcode == Opcode.SCHEMA:
                        schema = records.Schema.read(ReadDataStream(BytesIO(body)))
                        self._schemas[schema.id] = schema.name
                    elif opcode == Opcode.CHANNEL:
                        channel = records.Channel.read(ReadDataStream(BytesIO(body)))
                        self._channels[channel.id] = channel
                    elif opcode == Opcode.MESSAGE:
                        message = _message(body)
                        times.append(message.log_time)
                        counts[message.channel] += 1
        except ReadError:
            is_damaged = True  # reading its messages will say so
        self._counts.update(counts)
        if is_damaged:
            self._parts.append(_Part(part.offset, part.length, min(times, default=0), 1 << 64, None))
        elif times:
            self._parts.append(_Part(part.offset, part.length, min(times), max(times), frozenset(counts)))

    def _channel(self, channel: records.Channel) -> Channel:
        kind = full_type_name(self._schemas.get(channel.schema_id, ""))
        return Channel(channel.id, channel.topic, kind, channel.message_encoding, self._counts[channel.id])


def _message(body: bytes) -> Stored:
    message = records.Message.read(ReadDataStream(BytesIO(body)), len(body))
    return Stored(message.channel_id, message.log_time, message.data)
