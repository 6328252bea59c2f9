"""Messages of a rosbag2 recording, decoded by ``rosbags``, and what this project takes from each type."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from chorus_core.io.bag_storage import Bag, RawMessage
from chorus_core.io.bag_topics import COMPRESSED_IMAGE, ODOMETRY
from chorus_core.io.errors import reading
from chorus_core.io.images import decode_compressed, decode_image
from chorus_core.io.poses import matrix_from_pose
from chorus_core.io.sequence import SequenceError
from chorus_core.stamps import SECOND, seconds

# The few types read here are the same in every distribution, so that the definitions in a bag, which may be missing or
# of kinds that no parser knows (actions, services), are not needed.
_TYPES = get_typestore(Stores.ROS2_JAZZY)


@dataclass(frozen=True)
class PoseSample:
    """One message of a pose topic; ``child`` is empty where the message does not name it."""

    parent: str
    child: str
    stamp: float
    parent_from_child: np.ndarray


def messages(
    bag: Bag, topics: Collection[str], start: int | None = None, stop: int | None = None
) -> Iterator[tuple[str, int, Any]]:
    """(topic, time of recording in ns, message or a SequenceError saying why it cannot be read), in recorded order.

    The topic is empty where what is damaged does not tell.
    """
    for raw in bag.messages(topics, start, stop):
        if isinstance(raw, SequenceError):
            yield "", 0, raw
        else:
            yield raw.topic, raw.log_time, _decoded(raw, bag.topics[raw.topic].type)


def _decoded(raw: RawMessage, kind: str) -> Any:
    """A message, or the error that says why it is none: short or garbled bytes raise whatever comes first."""
    try:
        with reading(f"{raw.topic} at {seconds(raw.log_time):.3f} s", SequenceError):
            return _TYPES.deserialize_cdr(raw.data, kind)
    except SequenceError as error:
        return error


def nanoseconds(message: Any) -> int:
    """The stamp in a message's header."""
    stamp = message.header.stamp
    return stamp.sec * SECOND + stamp.nanosec


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
    return PoseSample(message.header.frame_id, child, seconds(nanoseconds(message)), matrix)
