"""What the storage files of rosbag2 have in common."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


@dataclass(frozen=True)
class Channel:
    """A stream of messages in one file.

    Attributes:
        id: within the file.
        topic: its name.
        type: message type, ``package/msg/Name``; empty where the file does not say.
        encoding: serialization of the messages; ``cdr`` in ROS 2.
        count: messages in the file.
    """

    id: int
    topic: str
    type: str
    encoding: str
    count: int


class Stored(NamedTuple):
    """A message as it lies in a file: channel, time of recording in nanoseconds, content."""

    channel: int
    log_time: int
    data: bytes


def full_type_name(name: str) -> str:
    """``package/Name``, as some writers have it, as ``package/msg/Name``; others unchanged."""
    return re.sub(r"^(\w+)/(\w+)$", r"\1/msg/\2", name)


class ScratchFolder:
    """A temporary folder that goes with this object; a forked process that drops its copy leaves the folder be."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="chorus_bag_"))
        weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)
