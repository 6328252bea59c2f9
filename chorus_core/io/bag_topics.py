"""Which topics of a recording are colour, depth, calibration and pose: told, or found by content and name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
_REGISTERED = re.compile(r"aligned|registered|depth_to_(rgb|colou?r)")
_COLOR_SEEN_FROM_DEPTH = re.compile(r"(rgb|colou?r)_to_depth")


def is_rectified(topic: str) -> bool:
    """Whether a topic's name says that its images are rectified: one of its words begins with ``rect``.

    So image_proc and camera drivers name them: ``image_rect``, ``image_rect_color``, ``rectified/image``.
    """
    return re.search(r"(^|[/_])rect", topic.lower()) is not None


@dataclass(frozen=True)
class BagOptions:
    """Topics and frames of a bag; what is None is found by itself.

    Attributes:
        color: ``Image`` or ``CompressedImage``.
        depth: ``Image`` or ``CompressedImage``, registered to colour.
        camera_info: calibration of the colour camera.
        pose: ``TFMessage`` (stands for /tf and /tf_static), ``Odometry`` or ``PoseStamped``; by itself the one that
            knows the camera at the most images.
        world_frame: frame of the map; by itself ``map`` where there is one, else the frame above all that moves.
        camera_frame: optical frame of the colour camera; by itself the ``frame_id`` of the colour images.
        base_frame: what ``Odometry`` or ``PoseStamped`` are poses of; by itself the ``child_frame_id`` of odometry, and
            the camera for a PoseStamped.
    """

    color: str | None = field(default=None, metadata={"flag": "--color-topic", "help": "of the colour images"})
    depth: str | None = field(
        default=None, metadata={"flag": "--depth-topic", "help": "of depth, registered to colour"}
    )
    camera_info: str | None = field(default=None, metadata={"flag": "--info-topic", "help": "of the calibration"})
    pose: str | None = field(default=None, metadata={"flag": "--pose-topic", "help": "of TF, odometry or poses"})
    world_frame: str | None = field(default=None, metadata={"flag": "--world-frame", "help": "frame of the map"})
    camera_frame: str | None = field(
        default=None, metadata={"flag": "--camera-frame", "help": "optical frame of colour"}
    )
    base_frame: str | None = field(default=None, metadata={"flag": "--base-frame", "help": "what the poses are of"})


@dataclass(frozen=True)
class Look:
    """What a message of an image or calibration topic shows.

    Attributes:
        frame: its ``frame_id``; may be empty.
        pixels: ``color``, ``grey`` or ``depth``; empty where that is unknown.
        size: width and height of the image, or of the calibrated one; None where that is unknown.
    """

    frame: str = ""
    pixels: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class ImageTopics:
    """The three topics that give pixels and their geometry.

    ``doubt`` says what else might have been meant, in one line; empty where the choice is clear.
    """

    color: str
    depth: str
    camera_info: str
    doubt: str = ""


def choose_image_topics(
    types: Mapping[str, str], wanted: BagOptions, looks: Mapping[str, Look] | None = None
) -> ImageTopics:
    """Pick the topics of colour, depth and calibration.

    Depth has 16-bit or float pixels (where nothing was seen of it: ``depth`` in its name), colour 8-bit ones. They are
    taken together, for depth has to be registered to its colour: first those in one frame, then those whose names say
    so (``aligned``, ``registered``, ``depth_to_rgb``), begin alike, or whose sizes agree. After that colour goes before
    grey, rectified before raw, uncompressed before compressed. Calibration is that in the frame of colour, then the one
    whose name begins like colour's.

    Args:
        types: message type by topic, of topics that have messages.
        wanted: choices that were made already.
        looks: what the messages of a topic show, by topic.

    Raises:
        SequenceError: a wanted topic is absent or of another type; no topic fits; or several cameras do, and nothing
            tells which depth goes with which colour. Names the topics there are.
    """
    return _Choice(types, wanted, looks or {}).make()


class _Choice:
    def __init__(self, types: Mapping[str, str], wanted: BagOptions, looks: Mapping[str, Look]) -> None:
        self.types = types
        self.wanted = wanted
        self.looks = looks

    def make(self) -> ImageTopics:
        wanted = self.wanted
        told_depth = _told(self.types, "depth", wanted.depth, _IMAGE_TYPES)
        told_color = _told(self.types, "color", wanted.color, _IMAGE_TYPES)
        told_info = _told(self.types, "camera_info", wanted.camera_info, (CAMERA_INFO,))
        images = [topic for topic, kind in self.types.items() if kind in _IMAGE_TYPES]
        depths = [told_depth] if told_depth else [t for t in images if t != wanted.color and self._is_depth(t)]
        colors = [told_color] if told_color else [t for t in images if t != wanted.depth and self._is_color(t)]
        infos = [told_info] if told_info else [topic for topic, kind in self.types.items() if kind == CAMERA_INFO]
        for name, flag, topics, kinds in (
            ("color", "--color-topic", colors, _IMAGE_TYPES),
            ("depth", "--depth-topic", depths, _IMAGE_TYPES),
            ("camera_info", "--info-topic", infos, (CAMERA_INFO,)),
        ):
            if not topics:
                kind = " or ".join(kinds)
                raise SequenceError(f"no {name} topic of type {kind} ({flag} names one); {_listing(self.types)}")
        color, depth, doubt = self._pair(colors, depths)
        return ImageTopics(color, depth, self._info(infos, color), doubt)

    def _pair(self, colors: list[str], depths: list[str]) -> tuple[str, str, str]:
        """Colour and depth of one camera, and what is doubtful about it."""
        pairs = [(color, depth) for color in colors for depth in depths if color != depth]
        if not pairs:
            raise SequenceError(f"no depth topic beside {colors[0]} (--depth-topic names one); {_listing(self.types)}")
        ranked = sorted(pairs, key=lambda pair: (self._support(*pair), *self._taste(*pair)))
        best = ranked[0]
        support = self._support(*best)
        # within a camera's frame registration is known, and names do not make one camera the likelier one
        counted = 1 if support[0] == _SAME else len(support)
        equals = [pair for pair in ranked[1:] if self._support(*pair)[:counted] == support[:counted]]
        others = [pair for pair in equals if not all(map(self._is_one_camera, pair, best))]
        others = [pair for pair in others if not _COLOR_SEEN_FROM_DEPTH.search(pair[0])]  # of the same camera
        if others:
            options = ", ".join(f"{color} with {depth}" for color, depth in _of_each_camera([best, *others]))
            what = f"depth may go with several cameras ({options}); --color-topic and --depth-topic name the one"
            if support[0] != _SAME:  # not even the best is known to belong together
                raise SequenceError(what)
            return *best, f"{what}; taken are {best[0]} with {best[1]}"
        if self._look(best[0]).pixels == "grey" and (colored := [c for c in colors if self._look(c).pixels == "color"]):
            return *best, f"{best[0]} is taken, grey but in the frame of depth; --color-topic may name {colored[0]}"
        return *best, ""

    def _info(self, infos: list[str], color: str) -> str:
        def support(topic: str) -> tuple[int, int, int]:
            return self._frames(topic, color), -_shared_levels(topic, color), self._sizes(topic, color)

        ranked = sorted(infos, key=lambda t: (support(t), "depth" in t.lower(), len(t), t))
        equals = [t for t in ranked if support(t) == support(ranked[0])]
        if len(equals) > 1 and support(ranked[0])[0] > _SAME:
            raise SequenceError(f"{color} may go with several of {', '.join(equals)}; --info-topic names the one")
        return ranked[0]

    def _is_depth(self, topic: str) -> bool:
        pixels = self._look(topic).pixels
        return not _words(topic) & _NOT_WANTED and (pixels == "depth" or (not pixels and _names_depth(topic)))

    def _is_color(self, topic: str) -> bool:
        # depth painted in colours is no colour
        return not _words(topic) & _NOT_WANTED and self._look(topic).pixels != "depth" and not _names_depth(topic)

    def _look(self, topic: str) -> Look:
        return self.looks.get(topic, Look())

    def _support(self, color: str, depth: str) -> tuple[int, bool, int, int]:
        """What speaks for the two being registered to each other; less is more."""
        registered = _REGISTERED.search(depth.lower()) is not None
        return self._frames(color, depth), not registered, -_shared_levels(color, depth), self._sizes(color, depth)

    def _taste(self, color: str, depth: str) -> tuple[Any, ...]:
        """Order of what is supported equally well."""
        colored = re.search("colou?r|rgb", color.lower()) is not None
        color_rank = (self._look(color).pixels == "grey", not colored, not is_rectified(color), _is_compressed(color))
        # an 8-bit "compressed" copy of depth is no depth; compressedDepth is
        coding = 0 if not _is_compressed(depth) else 1 if "compresseddepth" in depth.lower() else 2
        depth_rank = (not _names_depth(depth), not is_rectified(depth), coding)
        return *color_rank, *depth_rank, len(color), len(depth), color, depth

    def _frames(self, a: str, b: str) -> int:
        first, second = (self._look(topic).frame.removeprefix("/") for topic in (a, b))
        return _UNKNOWN if not (first and second) else _SAME if first == second else _DIFFERENT

    def _sizes(self, a: str, b: str) -> int:
        first, second = self._look(a).size, self._look(b).size
        return _UNKNOWN if None in (first, second) else _SAME if first == second else _DIFFERENT

    def _is_one_camera(self, a: str, b: str) -> bool:
        same = self._frames(a, b)
        return same == _SAME or (same == _UNKNOWN and _camera_name(a) == _camera_name(b))


_SAME, _UNKNOWN, _DIFFERENT = 0, 1, 2


def pose_topics(types: Mapping[str, str], wanted: BagOptions) -> dict[str, str]:
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


def _of_each_camera(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without other codings of the same images."""
    return list(
        {(_camera_name(color), _camera_name(depth)): (color, depth) for color, depth in reversed(pairs)}.values()
    )[::-1]


def _names_depth(topic: str) -> bool:
    return "depth" in _COLOR_SEEN_FROM_DEPTH.sub("", topic.lower())


def _camera_name(topic: str) -> str:
    """The name without the coding and the last level: ``/camera/color`` of ``/camera/color/image_raw/compressed``."""
    return re.sub("/compressed(depth)?$", "", topic, flags=re.IGNORECASE).rpartition("/")[0]


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
