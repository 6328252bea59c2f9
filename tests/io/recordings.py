"""Recordings as robots make them, written through rosbags; for the tests of everything that reads bags."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from chorus_core.io.bag_topics import CAMERA_INFO, COMPRESSED_IMAGE, IMAGE, ODOMETRY, POSE, TF
from chorus_core.io.rgbd import RgbdSequence

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
WIDTH, HEIGHT, COUNT, PERIOD, START = 32, 24, 5, 0.1, 1_700_000_000.0
COLOR, DEPTH, INFO = "/camera/color/image_raw", "/camera/aligned_depth_to_color/image_raw", "/camera/color/camera_info"
OPTICAL = "camera_color_optical_frame"
FEEDBACK = "/navigate/_action/feedback"

BASE_FROM_CAMERA = np.eye(4)
BASE_FROM_CAMERA[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
BASE_FROM_CAMERA[:3, 3] = 0.2, 0.0, 1.1


def odom_from_base(time: float) -> np.ndarray:
    """Where the robot is ``time`` seconds after the start: constant speed and turn rate, so interpolation is exact."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("z", 0.7 * time).as_matrix()
    pose[:3, 3] = 0.5 * time, -0.2 * time, 0
    return pose


def color_of(index: int) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), (200, 30 * index, 60), np.uint8)


def depth_of(index: int) -> np.ndarray:
    depth = np.full((HEIGHT, WIDTH), 1.0 + index / 8, np.float32)
    depth[:, 0] = 0
    return depth


def stamp_of(index: float) -> float:
    return START + index * PERIOD


# --- messages -------------------------------------------------------------------------------------------------------


def header(stamp: float, frame: str):
    nanoseconds = round((stamp - START) * 1e9) + int(START) * 1_000_000_000
    time = TYPES["builtin_interfaces/msg/Time"](nanoseconds // 10**9, nanoseconds % 10**9)
    return TYPES["std_msgs/msg/Header"](time, frame)


def quaternion(matrix: np.ndarray):
    return TYPES["geometry_msgs/msg/Quaternion"](*map(float, Rotation.from_matrix(matrix[:3, :3]).as_quat()))


def raw_image(stamp: float, encoding: str, image: np.ndarray, frame: str = OPTICAL):
    data = np.frombuffer(image.tobytes(), np.uint8)
    return TYPES[IMAGE](header(stamp, frame), *image.shape[:2], encoding, 0, image[0].nbytes, data)


def compressed_image(stamp: float, format_: str, content: bytes):
    return TYPES[COMPRESSED_IMAGE](header(stamp, OPTICAL), format_, np.frombuffer(content, np.uint8))


def camera_info(stamp: float, fx: float = 30.0):
    k = np.array([fx, 0, 15.5, 0, 31.0, 11.5, 0, 0, 1.0])
    p = np.array([40.0, 0, 15, 0, 0, 41.0, 11, 0, 0, 0, 1, 0])
    roi = TYPES["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return TYPES[CAMERA_INFO](
        header(stamp, OPTICAL), HEIGHT, WIDTH, "plumb_bob", np.zeros(5), k, np.eye(3).reshape(-1), p, 0, 0, roi
    )


def tf(stamp: float, parent: str, child: str, matrix: np.ndarray):
    translation = TYPES["geometry_msgs/msg/Vector3"](*map(float, matrix[:3, 3]))
    transform = TYPES["geometry_msgs/msg/Transform"](translation, quaternion(matrix))
    return TYPES[TF]([TYPES["geometry_msgs/msg/TransformStamped"](header(stamp, parent), child, transform)])


def pose_of(matrix: np.ndarray):
    return TYPES["geometry_msgs/msg/Pose"](
        TYPES["geometry_msgs/msg/Point"](*map(float, matrix[:3, 3])), quaternion(matrix)
    )


def odometry(stamp: float, matrix: np.ndarray, child: str = "base_link"):
    zero = TYPES["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
    pose = TYPES["geometry_msgs/msg/PoseWithCovariance"](pose_of(matrix), np.zeros(36))
    twist = TYPES["geometry_msgs/msg/TwistWithCovariance"](TYPES["geometry_msgs/msg/Twist"](zero, zero), np.zeros(36))
    return TYPES[ODOMETRY](header(stamp, "odom"), child, pose, twist)


def pose_stamped(stamp: float, matrix: np.ndarray):
    return TYPES[POSE](header(stamp, "world"), pose_of(matrix))


# --- bags -----------------------------------------------------------------------------------------------------------


@dataclass
class Recording:
    """Messages by topic, to be changed by a test before they are written."""

    messages: list[tuple[str, str, float, object]] = field(default_factory=list)

    def add(self, topic: str, stamp: float, message: object) -> None:
        self.messages.append((topic, message.__msgtype__, stamp, message))

    def write(self, folder: Path, storage=StoragePlugin.MCAP, mode=CompressionMode.NONE) -> Path:
        writer = Writer(folder, version=9, storage_plugin=storage)
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            connections = {}
            for topic, kind, stamp, message in sorted(self.messages, key=lambda m: m[2]):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
                raw = message.raw if isinstance(message, Raw) else STORE.serialize_cdr(message, kind)
                writer.write(connections[topic], round(stamp * 1e9), raw)
        return folder


@dataclass
class Raw:
    """Bytes in place of a message."""

    raw: bytes
    __msgtype__: str = IMAGE


def with_images(images: str = "raw", depth: str = "16UC1", lag: float = 0.004) -> Recording:
    """Colour ``lag`` seconds after depth, calibration with colour."""
    recording = Recording()
    for i in range(COUNT):
        stamp, metres = stamp_of(i), depth_of(i)
        millimetres = np.round(metres * 1000).astype(np.uint16)
        if images == "raw":
            pixels = millimetres if depth == "16UC1" else np.where(metres > 0, metres, np.nan).astype(np.float32)
            recording.add(COLOR, stamp + lag, raw_image(stamp + lag, "bgr8", color_of(i)[:, :, ::-1]))
            recording.add(DEPTH, stamp, raw_image(stamp, depth, pixels))
        else:
            jpeg = cv2.imencode(".jpg", color_of(i)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
            quant_a, quant_b = (0.0, 0.0) if depth == "16UC1" else (10100.0, -1009.0)
            coded = millimetres
            if depth == "32FC1":
                coded = np.where(metres > 0, quant_a / np.maximum(metres, 0.1) + quant_b, 0).round().astype(np.uint16)
            png = struct.pack("<iff", 0, quant_a, quant_b) + cv2.imencode(".png", coded)[1].tobytes()
            recording.add(
                f"{COLOR}/compressed", stamp + lag, compressed_image(stamp + lag, "rgb8; jpeg compressed bgr8", jpeg)
            )
            recording.add(f"{DEPTH}/compressedDepth", stamp, compressed_image(stamp, f"{depth}; compressedDepth", png))
        recording.add(INFO, stamp + lag, camera_info(stamp + lag))
    return recording


def with_tf(recording: Recording) -> Recording:
    """The robot's pose at times between those of the images; the camera's mount static."""
    recording.add("/tf_static", START - 1, tf(START - 1, "base_link", OPTICAL, BASE_FROM_CAMERA))
    for i in np.arange(-0.5, COUNT + 1):
        recording.add("/tf", stamp_of(i), tf(stamp_of(i), "odom", "base_link", odom_from_base(i * PERIOD)))
    return recording


def recording() -> Recording:
    """Raw images, poses from TF: nothing in it is wrong."""
    return with_tf(with_images())


def write_mcap(path: Path, profile: str = "ros2", foreign: tuple[str, str, bytes] | None = None, **options) -> Path:
    """The recording through mcap's own writer; ``foreign``: a channel's schema encoding, its text and its encoding."""
    with path.open("wb") as stream:
        writer = McapWriter(stream, **{"chunk_size": 4000, **options})
        writer.start(profile=profile)
        channels = {}
        if foreign is not None:
            encoding, text, message_encoding = foreign
            schema = writer.register_schema("nav2_msgs/action/Navigate_Feedback", encoding, text.encode())
            channel = writer.register_channel(FEEDBACK, message_encoding, schema)
            writer.add_message(channel, 0, b"\x00\x01\x00\x00what ever", 0)
        for topic, kind, stamp, message in sorted(recording().messages, key=lambda m: m[2]):
            if topic not in channels:
                text = STORE.generate_msgdef(kind, ros_version=2)[0]
                channels[topic] = writer.register_channel(
                    topic, "cdr", writer.register_schema(kind, "ros2msg", text.encode())
                )
            nanoseconds = round(stamp * 1e9)
            writer.add_message(channels[topic], nanoseconds, bytes(STORE.serialize_cdr(message, kind)), nanoseconds)
        writer.finish()
    return path


def check_frames(sequence: RgbdSequence, depth_tolerance: float = 1e-3) -> None:
    frames = list(sequence)
    assert len(frames) == len(sequence) == COUNT
    for i, frame in enumerate(frames):
        assert np.abs(frame.color.astype(int) - color_of(i)).max() <= 4
        np.testing.assert_allclose(frame.depth, depth_of(i), atol=depth_tolerance)
        np.testing.assert_allclose(frame.world_from_camera, odom_from_base(i * PERIOD) @ BASE_FROM_CAMERA, atol=1e-6)
        assert frame.stamp * 1e-9 == pytest.approx(stamp_of(i), abs=1e-6)
        k = frame.intrinsics
        assert (k.fx, k.fy, k.cx, k.cy, k.width, k.height) == (30, 31, 15.5, 11.5, WIDTH, HEIGHT)
    for i in (2, 0, -1):
        again = sequence[i]
        np.testing.assert_array_equal(again.depth, frames[i].depth)
        np.testing.assert_array_equal(again.color, frames[i].color)
