"""Messages of a rosbag2 recording, read through ``rosbags``, and what this project takes from each type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from chorus_core.io.bag_topics import COMPRESSED_IMAGE, ODOMETRY
from chorus_core.io.images import decode_compressed, decode_image
from chorus_core.io.poses import matrix_from_pose
from chorus_core.io.sequence import SequenceError


@dataclass(frozen=True)
class PoseSample:
    """One message of a pose topic; ``child`` is empty where the message does not name it."""

    parent: str
    child: str
    stamp: float
    parent_from_child: np.ndarray


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """A rosbag2 folder, ``.mcap`` or ``.db3`` file, opened.

    Raises:
        SequenceError: there is none, or it cannot be read.
    """
    try:
        # sqlite3 bags from before Iron carry no message definitions
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except Exception as error:  # damaged files raise whatever the storage library meets first
        raise SequenceError(f"{path}: not a readable rosbag2 recording: {error}") from error
    try:
        yield reader
    finally:
        reader.close()


def messages(
    reader: AnyReader, topics: set[str], start: int | None = None, stop: int | None = None
) -> Iterator[tuple[str, int, Any]]:
    """(topic, time of recording in ns, message or a SequenceError saying why it cannot be read), in recorded order."""
    connections = [connection for connection in reader.connections if connection.topic in topics]
    raw_messages = reader.messages(connections, start=start, stop=stop)
    while True:
        try:
            connection, log_time, raw = next(raw_messages)
        except StopIteration:
            return
        except Exception as error:  # see open_bag; what was read before stays good
            yield "", 0, SequenceError(f"{reader.paths[0]}: damaged: {error}")
            return
        try:
            message: Any = reader.deserialize(raw, connection.msgtype)
        except Exception as error:  # a short or garbled message raises struct, index, unicode and value errors
            message = SequenceError(f"{connection.topic} at {log_time * 1e-9:.3f} s does not decode: {error}")
        yield connection.topic, log_time, message


def nanoseconds(message: Any) -> int:
    """The stamp in a message's header."""
    stamp = message.header.stamp
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def seconds(message: Any) -> float:
    """The stamp in a message's header."""
    return nanoseconds(message) * 1e-9


def pixels(message: Any) -> tuple[np.ndarray, str | None]:
    """Pixels of an image message and their encoding; None where the pixels were compressed."""
    if message.__msgtype__ == COMPRESSED_IMAGE:
        return decode_compressed(message.format, message.data), None
    m = message
    return decode_image(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data), m.encoding


def pose_sample(message: Any, kind: str) -> PoseSample:
    """An ``Odometry`` or ``PoseStamped`` message; a matrix that is not finite is left for the user to find."""
    odometry = kind == ODOMETRY
    pose = message.pose.pose if odometry else message.pose
    position, q = pose.position, pose.orientation
    matrix = matrix_from_pose((position.x, position.y, position.z), (q.x, q.y, q.z, q.w))
    # a PoseStamped does not say whose pose it is
    child = message.child_frame_id.removeprefix("/") if odometry else ""
    return PoseSample(message.header.frame_id, child, seconds(message), matrix)
