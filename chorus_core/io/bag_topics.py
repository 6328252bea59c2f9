"""Which topics of a recording are colour, depth, calibration and pose: told, or found by type and name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chorus_core.io.sequence import SequenceError

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF = "tf2_msgs/msg/TFMessage"
ODOMETRY = "nav_msgs/msg/Odometry"
POSE = "geometry_msgs/msg/PoseStamped"

_IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
_POSE_TYPES = (TF, ODOMETRY, POSE)
_NOT_WANTED = {"ir", "infra", "infra1", "infra2", "infrared", "label", "labels", "semantic", "segmentation"}
_NOT_WANTED |= {"instance", "instances", "mask", "disparity", "confidence", "normals", "theora"}


def is_rectified(topic: str) -> bool:
    """Whether a topic's name says that its images are rectified: one of its words begins with ``rect``.

    So image_proc and camera drivers name them: ``image_rect``, ``image_rect_color``, ``rectified/image``.
    """
    return re.search(r"(^|[/_])rect", topic.lower()) is not None


@dataclass(frozen=True)
class BagTopics:
    """Topics and frames of a bag; what is None is found by itself.

    Attributes:
        color: ``Image`` or ``CompressedImage``.
        depth: ``Image`` or ``CompressedImage``, registered to colour.
        camera_info: calibration of the colour camera.
        pose: ``TFMessage`` (stands for /tf and /tf_static), ``Odometry`` or ``PoseStamped`` (taken as the pose of the
            camera frame). By itself: TF where the camera moves in it, else odometry, else a PoseStamped topic.
        world_frame: frame of the map; by itself the pose topic's frame, or the root of the TF tree.
        camera_frame: optical frame of the colour camera; by itself the ``frame_id`` of the colour images.
    """

    color: str | None = None
    depth: str | None = None
    camera_info: str | None = None
    pose: str | None = None
    world_frame: str | None = None
    camera_frame: str | None = None


@dataclass(frozen=True)
class ImageTopics:
    """The three topics that give pixels and their geometry."""

    color: str
    depth: str
    camera_info: str


def choose_image_topics(types: Mapping[str, str], wanted: BagTopics) -> ImageTopics:
    """Pick the topics of colour, depth and calibration.

    Depth is an image topic with ``depth`` in its name, registered ones first; colour one without, ``color`` or ``rgb``
    first; both rectified and raw (uncompressed) first. Camera info is the one that shares the longest beginning
    with the colour topic.

    Args:
        types: message type by topic, of topics that have messages.
        wanted: choices that were made already.

    Raises:
        SequenceError: a wanted topic is absent or of another type, or no topic fits; lists the topics there are.
    """
    images = [topic for topic, kind in types.items() if kind in _IMAGE_TYPES]
    depth = _told(types, "depth", wanted.depth, _IMAGE_TYPES) or _best(
        [t for t in images if "depth" in t.lower() and t != wanted.color], _depth_rank
    )
    color = _told(types, "color", wanted.color, _IMAGE_TYPES) or _best(
        [t for t in images if "depth" not in t.lower() and t != depth],
        _color_rank,
    )
    infos = [topic for topic, kind in types.items() if kind == CAMERA_INFO]
    info = _told(types, "camera_info", wanted.camera_info, (CAMERA_INFO,)) or _best(
        infos, lambda t: (-_shared_levels(t, color or ""), "depth" in t.lower(), len(t), t)
    )
    for name, topic, kind in (("color", color, _IMAGE_TYPES), ("depth", depth, _IMAGE_TYPES)):
        if topic is None:
            raise SequenceError(f"no {name} topic of type {' or '.join(kind)}; {_listing(types)}")
    if info is None:
        raise SequenceError(f"no camera_info topic of type {CAMERA_INFO}; {_listing(types)}")
    return ImageTopics(color, depth, info)


def pose_topics(types: Mapping[str, str], wanted: BagTopics) -> dict[str, str]:
    """Topics that may tell where the camera is, with their types: the wanted one only, or all.

    TF topics are among them always: they say how the camera is mounted.

    Raises:
        SequenceError: the wanted topic is absent or of another type.
    """
    told = _told(types, "pose", wanted.pose, _POSE_TYPES)
    return {t: kind for t, kind in types.items() if kind == TF or (kind in _POSE_TYPES and told in (None, t))}


def _told(types: Mapping[str, str], name: str, topic: str | None, kinds: tuple[str, ...]) -> str | None:
    if topic is not None and types.get(topic) not in kinds:
        found = f"is {types[topic]}" if topic in types else "has no messages"
        raise SequenceError(f"{name} topic {topic!r} {found}: expected {' or '.join(kinds)}; {_listing(types)}")
    return topic


def _best(topics: Iterable[str], rank: Callable[[str], Any]) -> str | None:
    return min((topic for topic in topics if not _words(topic) & _NOT_WANTED), key=rank, default=None)


def _depth_rank(topic: str) -> tuple[Any, ...]:
    lower = topic.lower()
    registered = "aligned" in lower or "registered" in lower
    # an 8-bit "compressed" copy of depth is no depth; compressedDepth is
    coding = 0 if not _is_compressed(topic) else 1 if "compresseddepth" in lower else 2
    return (not registered, not is_rectified(topic), coding, len(topic), topic)


def _color_rank(topic: str) -> tuple[Any, ...]:
    lower = topic.lower()
    colored = "color" in lower or "colour" in lower or "rgb" in lower
    return (not colored, not is_rectified(topic), _is_compressed(topic), len(topic), topic)


def _is_compressed(topic: str) -> bool:
    return "compressed" in topic.lower()


def _shared_levels(a: str, b: str) -> int:
    """How many levels of two topic names agree from the start."""
    agree = [x == y for x, y in zip(a.split("/"), b.split("/"), strict=False)]
    return next((level for level, same in enumerate(agree) if not same), len(agree))


def _words(topic: str) -> set[str]:
    return set(re.split(r"[/_]+", topic.lower()))


def _listing(types: Mapping[str, str]) -> str:
    return "topics are: " + (", ".join(f"{topic} ({kind})" for topic, kind in sorted(types.items())) or "none")
