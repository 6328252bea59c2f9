"""The stored messages of a rosbag2 recording, whatever its files are; what is in a message is not looked at."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import zstandard

from chorus_core.io.bag_files import bag_files
from chorus_core.io.errors import reading
from chorus_core.io.mcap_storage import MCAP_MAGIC, McapFile
from chorus_core.io.sequence import SequenceError
from chorus_core.io.sqlite_storage import SQLITE_MAGIC, SqliteFile
from chorus_core.io.storage import Channel, ScratchFolder, Stored
from chorus_core.stamps import seconds

_log = logging.getLogger(__name__)

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no message begins so: CDR begins with a zero
_MAX_MESSAGE = 1 << 30  # bytes of one message
_READABLE = ("cdr", "")  # some writers leave the encoding empty


class RawMessage(NamedTuple):
    """One message as stored; ``log_time`` is when it was recorded, in nanoseconds."""

    topic: str
    log_time: int
    data: bytes


@dataclass(frozen=True)
class Topic:
    """A topic of a recording: its message type (``package/msg/Name``) and how many messages it has."""

    name: str
    type: str
    count: int


class _StorageFile(Protocol):
    channels: list[Channel]

    def messages(
        self, ids: Collection[int], start: int | None, stop: int | None
    ) -> Iterator[Stored | SequenceError]: ...


def open_bag(path: str | Path) -> Bag:
    """A rosbag2 folder or one of its files.

    Raises:
        SequenceError: there is none, or not one message of it can be read.
    """
    path = Path(path)
    bag = Bag(path, _open_files(bag_files(path)))
    if not bag.topics:
        foreign = ", ".join(f"{topic} ({encoding})" for topic, encoding in sorted(bag.foreign.items()))
        raise SequenceError(f"{path}: not a readable rosbag2 recording: no messages" + (foreign and f" but {foreign}"))
    return bag


class Bag:
    """The messages of a recording. Files are open while they are read only: several threads or processes may read.

    Attributes:
        path: of the recording.
        topics: those with messages that can be read, by name.
        foreign: topics with messages of another serialization (JSON, Protobuf, ROS 1), with its name.
    """

    def __init__(self, path: Path, files: list[_StorageFile]) -> None:
        self.path = path
        self._files = files
        self.topics: dict[str, Topic] = {}
        self.foreign: dict[str, str] = {}
        for channel in (channel for file in files for channel in file.channels if channel.count > 0):
            if channel.encoding not in _READABLE or not channel.type:
                self.foreign[channel.topic] = channel.encoding or "unknown"
                continue
            known = self.topics.get(channel.topic)
            if known is None or known.type == channel.type:
                count = channel.count + (known.count if known else 0)
                self.topics[channel.topic] = Topic(channel.topic, channel.type, count)
            else:
                _log.warning("%s: %s has messages of two types; %s is left out", path, channel.topic, channel.type)

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[RawMessage | SequenceError]:
        """Messages of some topics in the order of recording, from ``start`` up to before ``stop`` (nanoseconds).

        What is damaged is handed out as the error that says so; whatever can be read comes after it.
        """
        for file in self._files:
            names = {c.id: c.topic for c in file.channels if c.topic in topics and self._is_readable(c)}
            for stored in file.messages(names, start, stop) if names else ():
                if isinstance(stored, SequenceError):
                    yield stored
                    continue
                channel, log_time, data = stored
                try:
                    yield RawMessage(names[channel], log_time, _decompressed(data))
                except zstandard.ZstdError as error:
                    yield SequenceError(f"{self.path}: {names[channel]} at {seconds(log_time):.3f} s: {error}")

    def _is_readable(self, channel: Channel) -> bool:
        known = self.topics.get(channel.topic)
        return known is not None and channel.encoding in _READABLE and channel.type == known.type


def _decompressed(data: bytes) -> bytes:
    if not data.startswith(_ZSTD_MAGIC):
        return data
    if zstandard.frame_content_size(data) > _MAX_MESSAGE:
        raise zstandard.ZstdError(f"message of over {_MAX_MESSAGE} bytes")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_MESSAGE)


def _open_files(paths: Sequence[Path]) -> list[_StorageFile]:
    """Those of the files that can be opened; the others are said.

    Raises:
        SequenceError: none can.
    """
    opened, last_error = [], None
    for path in paths:
        try:
            opened.append(_open_file(path))
        except SequenceError as error:
            last_error = error
            if len(paths) > 1:
                _log.warning("%s; the other files of the recording are read", error)
    if last_error is not None and not opened:
        raise last_error
    return opened


def _open_file(path: Path) -> _StorageFile:
    """A storage file by what it begins with."""
    try:
        with reading(path, SequenceError):
            scratch, file, magic = None, path, _beginning(path)
            if magic.startswith(_ZSTD_MAGIC):
                scratch = ScratchFolder()
                file = _unpacked(path, scratch.path)
                magic = _beginning(file)
            if magic.startswith(MCAP_MAGIC):
                return McapFile(file, scratch)
            if magic.startswith(SQLITE_MAGIC):
                return SqliteFile(file, scratch)
    except OSError as error:
        raise SequenceError(f"{path}: {error.strerror}") from error
    raise SequenceError(f"{path}: not a readable rosbag2 recording: begins like neither mcap nor sqlite3")


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(max(len(MCAP_MAGIC), len(SQLITE_MAGIC)))


def _unpacked(path: Path, folder: Path) -> Path:
    """A copy in ``folder`` of a file that was compressed as a whole."""
    unpacked = folder / path.name.removesuffix(".zstd")
    with path.open("rb") as packed, unpacked.open("wb") as out:
        zstandard.ZstdDecompressor().copy_stream(packed, out)
    return unpacked
