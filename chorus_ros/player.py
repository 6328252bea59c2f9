"""The player: a rosbag2 message by message, any other RGB-D sequence as camera, odometry and TF."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from tqdm import tqdm

from chorus_core.config import ConfigError
from chorus_core.frames import RgbdFrame
from chorus_core.io.bag_files import is_bag
from chorus_core.io.bag_storage import Topic, open_bag
from chorus_core.io.rgbd import RgbdSequence, SequenceError, open_sequence
from chorus_core.stamps import seconds
from chorus_ros import qos
from chorus_ros.conversions import (
    byte_array,
    camera_info_message,
    image_message,
    pose_message,
    time_message,
    transform_message,
)
from chorus_ros.names import why_no_topic
from chorus_ros.node_config import TopicsConfig
from chorus_ros.parameters import check_qos_overrides
from chorus_ros.starting import init_ros
from chorus_ros.stop_signals import Stopped, StopSignals

_JPEG_QUALITY = 90
_SLOWEST = 0.001  # speed: pauses of a slower one are longer than a sleep may be
_SETTLE = 1.0  # seconds without a new match before the first message, and after the last: DDS matches topic by topic

BASE_FRAME, CAMERA_FRAME, ODOMETRY_FRAME, MAP_FRAME = "base_link", "camera_color_optical_frame", "odom", "map"
# A base at the camera: x forward, y left, z up (REP 103) from x right, y down, z forward.
BASE_FROM_CAMERA = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Step:
    """Messages that are due together, at ``stamp`` nanoseconds of the recording; bytes are serialized messages."""

    stamp: int
    messages: Sequence[tuple[Publisher, Any]]


class BagSource:
    """A rosbag2 recording: every topic whose message type is installed, byte for byte."""

    def __init__(self, node: Node, path: Path) -> None:
        self._bag = open_bag(path)
        self._logger = node.get_logger()
        self._publishers: dict[str, Publisher] = {}
        self.length = sum(topic.count for topic in self._bag.topics.values())
        for topic in self._bag.topics.values():
            kind = _message_type(topic.type)
            if kind is None:
                node.get_logger().warning(f"{topic.name} is left out: no package for {topic.type}")
                continue
            if why := why_no_topic(node, topic.name):
                node.get_logger().warning(f"{topic.name} is left out: {why}")
                continue
            self._publishers[topic.name] = node.create_publisher(kind, topic.name, **qos.overridable(_profile(topic)))
        self.camera = [p for p in self._publishers.values() if p.msg_type in (Image, CompressedImage)]

    def __iter__(self) -> Iterator[Step]:
        for message in self._bag.messages(self._publishers):
            if isinstance(message, SequenceError):
                self._logger.warning(str(message))
            else:
                yield Step(message.log_time, [(self._publishers[message.topic], message.data)])


class SequenceSource:
    """Posed RGB-D frames as a robot would publish them: ``map`` > ``odom`` > ``base_link`` > the camera's frame."""

    def __init__(self, node: Node, sequence: RgbdSequence, compressed: bool) -> None:
        self._sequence = sequence
        self._compressed = compressed
        self.length = len(sequence)
        topics = TopicsConfig()
        kind, color, depth = Image, topics.color, topics.depth
        if compressed:
            kind, color, depth = CompressedImage, f"{color}/compressed", f"{depth}/compressed"
        self._color = node.create_publisher(kind, color, qos.STREAM)
        self._depth = node.create_publisher(kind, depth, qos.STREAM)
        self._info = node.create_publisher(CameraInfo, topics.info, qos.STREAM)
        self._odometry = node.create_publisher(Odometry, topics.odometry, qos.STREAM)
        self._tf = node.create_publisher(TFMessage, "/tf", qos.TF)
        self._tf_static = node.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
        self.camera = [self._color, self._depth]

    def __iter__(self) -> Iterator[Step]:
        for number, frame in enumerate(self._sequence):
            messages = self._messages(frame)
            if number == 0:
                messages.insert(0, (self._tf_static, self._static_transforms(frame.stamp)))
            yield Step(frame.stamp, messages)

    def _static_transforms(self, stamp: int) -> TFMessage:
        map_from_odometry = transform_stamped(stamp, MAP_FRAME, ODOMETRY_FRAME, np.eye(4))
        base_from_camera = transform_stamped(stamp, BASE_FRAME, CAMERA_FRAME, BASE_FROM_CAMERA)
        return TFMessage(transforms=[map_from_odometry, base_from_camera])

    def _messages(self, frame: RgbdFrame) -> list[tuple[Publisher, Any]]:
        stamp = time_message(frame.stamp)
        header = Header(stamp=stamp, frame_id=CAMERA_FRAME)
        odometry_from_base = frame.world_from_camera @ np.linalg.inv(BASE_FROM_CAMERA)
        odometry = Odometry(header=Header(stamp=stamp, frame_id=ODOMETRY_FRAME), child_frame_id=BASE_FRAME)
        odometry.pose.pose = pose_message(odometry_from_base)
        moving = transform_stamped(frame.stamp, ODOMETRY_FRAME, BASE_FRAME, odometry_from_base)
        depth = np.round(frame.depth * 1000).clip(0, 65534).astype(np.uint16)  # 16UC1 is millimetres (REP 118)
        return [
            (self._tf, TFMessage(transforms=[moving])),
            (self._odometry, odometry),
            (self._info, camera_info_message(header, frame.intrinsics)),
            (self._color, self._image(header, frame.color, "rgb8")),
            (self._depth, self._image(header, depth, "16UC1")),
        ]

    def _image(self, header: Header, pixels: np.ndarray, encoding: str) -> Image | CompressedImage:
        if not self._compressed:
            return image_message(header, pixels, encoding)
        if encoding == "16UC1":
            data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
            return CompressedImage(header=header, format="16UC1; png compressed ", data=byte_array(data))
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=byte_array(data))


class PlayerNode(Node):
    """Publishes a source's steps at their pace.

    Raises:
        SequenceError, OSError: the path is no recording.
        ConfigError: a quality of service is to be overridden by what is none.
    """

    def __init__(
        self,
        path: str | Path,
        compressed: bool = False,
        clock: bool = False,
        upright: bool = False,
        **node_arguments: Any,
    ) -> None:
        super().__init__("player_node", **node_arguments)
        check_qos_overrides({name: p.value for name, p in self._parameter_overrides.items()})
        path = Path(path)
        if is_bag(path):
            self._source = BagSource(self, path)
        else:
            self._source = SequenceSource(self, open_sequence(path, upright=upright), compressed)
        self._clock_out = self.create_publisher(Clock, "/clock", qos.STREAM) if clock else None

    def wait_for_subscribers(self, timeout: float) -> bool:
        """Whether somebody listens to a camera topic; waits for at most ``timeout`` seconds for that."""
        deadline = time.monotonic() + timeout
        while not any(p.get_subscription_count() for p in self._source.camera):
            if time.monotonic() > deadline or not self.context.ok():
                return False
            time.sleep(0.05)
        listeners, since = -1, 0.0
        while self.context.ok() and time.monotonic() - since < _SETTLE:
            count = sum(p.get_subscription_count() for p in self.publishers)
            if count != listeners:
                listeners, since = count, time.monotonic()
            time.sleep(0.05)
        return True

    def play(self, rate: float = 1.0) -> None:
        """Publish everything once; ``rate`` 2 plays twice as fast as it was recorded."""
        started = first = None
        for step in tqdm(self._source, total=self._source.length, desc="playing", unit=" steps", disable=None):
            if first is None:
                started, first = time.monotonic(), step.stamp
            pause = started + seconds(step.stamp - first) / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            if not self.context.ok():
                return
            if self._clock_out is not None:
                self._clock_out.publish(Clock(clock=time_message(step.stamp)))
            for publisher, message in step.messages:
                publisher.publish(message)
        time.sleep(_SETTLE)


def transform_stamped(stamp: int, parent: str, child: str, parent_from_child: np.ndarray) -> TransformStamped:
    """``parent_from_child`` [4, 4] at ``stamp`` nanoseconds, as TF has it."""
    header = Header(stamp=time_message(stamp), frame_id=parent)
    return TransformStamped(header=header, child_frame_id=child, transform=transform_message(parent_from_child))


def _profile(topic: Topic) -> QoSProfile:
    """Static transforms are latched, as tf2_ros does, also those of a robot of a fleet (``/robot1/tf_static``)."""
    static = topic.type == "tf2_msgs/msg/TFMessage" and topic.name.rpartition("/")[2] == "tf_static"
    return qos.TF_STATIC if static else qos.STREAM


def _message_type(name: str) -> type | None:
    """The class of ``package/msg/Name``, or None where that package is not installed."""
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind, None)
    except ImportError:
        return None


def _rate(text: str) -> float:
    value = float(text)
    if not _SLOWEST <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of {_SLOWEST} or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 seconds or more")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Play an RGB-D recording as ROS topics.")
    parser.add_argument("path", help="a rosbag2 folder or file, or an RGB-D sequence's folder")
    parser.add_argument("--rate", type=_rate, default=1.0, help="speed, 1 is as recorded (default: %(default)s)")
    parser.add_argument("--compressed", action="store_true", help="images as JPEG and PNG (a bag plays as it is)")
    parser.add_argument("--upright", action="store_true", help="find the vertical of a hand-held recording first")
    parser.add_argument("--clock", action="store_true", help="publish /clock from the recording's stamps")
    parser.add_argument("--loop", action="store_true", help="start again at the end")
    parser.add_argument("--wait", type=_seconds, default=30.0, help="seconds to wait for a subscriber (%(default)s)")
    return parser


def run_player(args: Sequence[str] | None, signals: StopSignals) -> None:
    """Play a recording once, or until a signal comes."""
    argv = list(sys.argv if args is None else ["player_node", *args])
    logging.basicConfig(level=logging.WARNING)
    init_ros(argv[1:], "player_node")  # before remove_ros_args, which raises what this says in a line
    node = None
    try:
        options = _parser().parse_args(remove_ros_args(argv)[1:])
        with signals.raising():  # no callbacks run, so it may be anywhere
            node = PlayerNode(options.path, options.compressed, options.clock, options.upright)
            if not node.wait_for_subscribers(options.wait):
                node.get_logger().warning("nobody listens to the camera topics; playing all the same")
            node.play(options.rate)
            while options.loop and node.context.ok():
                node.play(options.rate)
    except Stopped:
        pass
    except (SequenceError, ConfigError) as error:
        sys.exit(f"player_node: {error}")
    except OSError as error:
        sys.exit(f"player_node: {options.path}: {error.strerror or error}")
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
