"""RGB-D, odometry and TF of a simulated robot as a rosbag2 (mcap)."""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from chorus_core.frames import CameraIntrinsics

COLOR, DEPTH = "/camera/color", "/camera/depth"
OPTICAL_FRAME = "camera_color_optical_frame"
# camera_link (x forward, y left, z up) to optical axes (x right, y down, z forward); REP 103.
LINK_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

_FOREVER = QosTime(9223372036, 854775807)


def _qos(durability: QosDurability, depth: int) -> Qos:
    return Qos(
        QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE, durability, _FOREVER, _FOREVER, QosLiveliness.AUTOMATIC,
        _FOREVER, False,
    )  # fmt: skip


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """x, y, z, w of a rotation matrix [3, 3], w >= 0 (largest eigenvector; Bar-Itzhack 2000)."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
            [m[1, 0] + m[0, 1], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
            [m[2, 0] + m[0, 2], m[2, 1] + m[1, 2], m[2, 2] - m[0, 0] - m[1, 1], 0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )
    q = np.linalg.eigh(k / 3.0)[1][:, -1]
    q = q if q[3] >= 0 else -q
    return tuple(float(c) for c in q)  # type: ignore[return-value]


class BagWriter:
    """Writes the topics a RealSense-like camera on a robot has. Stamps are seconds.

    Args:
        path: folder of the bag; must not exist.
        intrinsics: of colour and (registered) depth.
        base_from_link: where the camera sits on the robot, [4, 4].
    """

    def __init__(self, path: Path, intrinsics: CameraIntrinsics, base_from_link: np.ndarray) -> None:
        self._intrinsics = intrinsics
        self._types = get_typestore(Stores.ROS2_KILTED)
        # Format 8 is the newest whose metadata the rosbag2 of Humble reads: 9 has QoS profiles as maps instead of text.
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        self._base_from_link = base_from_link
        self._connections: dict[str, object] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        topics = {
            f"{COLOR}/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
            f"{DEPTH}/image_raw/compressedDepth": "sensor_msgs/msg/CompressedImage",
            f"{COLOR}/camera_info": "sensor_msgs/msg/CameraInfo",
            f"{DEPTH}/camera_info": "sensor_msgs/msg/CameraInfo",
            "/odom": "nav_msgs/msg/Odometry",
            "/tf": "tf2_msgs/msg/TFMessage",
            "/tf_static": "tf2_msgs/msg/TFMessage",
        }
        for topic, kind in topics.items():
            latched = topic == "/tf_static"
            qos = _qos(QosDurability.TRANSIENT_LOCAL, 1) if latched else _qos(QosDurability.VOLATILE, 10)
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types, offered_qos_profiles=[qos]
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write_static(self, stamp: float) -> None:
        """/tf_static: base_link to camera_link to the optical frame."""
        chain = [
            self._transform(stamp, "base_link", "camera_link", self._base_from_link),
            self._transform(stamp, "camera_link", OPTICAL_FRAME, LINK_FROM_OPTICAL),
        ]
        self._write("/tf_static", stamp, self._new("tf2_msgs/msg/TFMessage", transforms=chain))

    def write_pose(self, stamp: float, odom_from_base: np.ndarray, velocity: np.ndarray) -> None:
        """/odom and /tf; ``velocity`` is (vx, vy, yaw rate) in base_link."""
        transform = self._transform(stamp, "odom", "base_link", odom_from_base)
        t, q = odom_from_base[:3, 3], quaternion(odom_from_base[:3, :3])
        pose = self._new(
            "geometry_msgs/msg/Pose",
            position=self._new("geometry_msgs/msg/Point", x=float(t[0]), y=float(t[1]), z=float(t[2])),
            orientation=self._new("geometry_msgs/msg/Quaternion", x=q[0], y=q[1], z=q[2], w=q[3]),
        )
        twist = self._new(
            "geometry_msgs/msg/Twist",
            linear=self._vector(np.array([velocity[0], velocity[1], 0.0])),
            angular=self._vector(np.array([0.0, 0.0, velocity[2]])),
        )
        covariance = np.diag([4e-6, 4e-6, 1e-6, 1e-6, 1e-6, 1e-6]).reshape(-1)
        message = self._new(
            "nav_msgs/msg/Odometry",
            header=self._header(stamp, "odom"),
            child_frame_id="base_link",
            pose=self._new("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=covariance),
            twist=self._new("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=covariance),
        )
        self._write("/odom", stamp, message)
        self._write("/tf", stamp, self._new("tf2_msgs/msg/TFMessage", transforms=[transform]))

    def write_images(self, stamp: float, color: np.ndarray, depth: np.ndarray, quality: int = 85) -> None:
        """RGB uint8 [H, W, 3] as JPEG, depth float32 [H, W] metres as 16-bit millimetre PNG, and camera infos."""
        header = self._header(stamp, OPTICAL_FRAME)
        jpeg = cv2.imencode(".jpg", color[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        millimetres = np.rint(np.clip(depth, 0, 65.0) * 1000).astype(np.uint16)
        png = cv2.imencode(".png", millimetres, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
        # compressed_depth_image_transport: a 12-byte ConfigHeader (format, two quantisation floats) before the PNG.
        depth_bytes = np.frombuffer(struct.pack("<iff", 0, 0.0, 0.0) + png.tobytes(), np.uint8)
        kind = "sensor_msgs/msg/CompressedImage"
        for topic, form, data in (
            (f"{COLOR}/image_raw/compressed", "rgb8; jpeg compressed bgr8", jpeg.reshape(-1)),
            (f"{DEPTH}/image_raw/compressedDepth", "16UC1; compressedDepth png", depth_bytes),
        ):
            self._write(topic, stamp, self._new(kind, header=header, format=form, data=data))
        info = self._camera_info(stamp)
        self._write(f"{COLOR}/camera_info", stamp, info)
        self._write(f"{DEPTH}/camera_info", stamp, info)

    def _camera_info(self, stamp: float) -> object:
        k = self._intrinsics
        projection = np.hstack([k.matrix, np.zeros((3, 1))])
        roi = self._new("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        return self._new(
            "sensor_msgs/msg/CameraInfo", header=self._header(stamp, OPTICAL_FRAME), height=k.height, width=k.width,
            distortion_model="plumb_bob", d=np.zeros(5), k=k.matrix.reshape(-1), r=np.eye(3).reshape(-1),
            p=projection.reshape(-1), binning_x=0, binning_y=0, roi=roi,
        )  # fmt: skip

    def _transform(self, stamp: float, parent: str, child: str, parent_from_child: np.ndarray) -> object:
        q = quaternion(parent_from_child[:3, :3])
        return self._new(
            "geometry_msgs/msg/TransformStamped",
            header=self._header(stamp, parent),
            child_frame_id=child,
            transform=self._new(
                "geometry_msgs/msg/Transform",
                translation=self._vector(parent_from_child[:3, 3]),
                rotation=self._new("geometry_msgs/msg/Quaternion", x=q[0], y=q[1], z=q[2], w=q[3]),
            ),
        )

    def _vector(self, v: np.ndarray) -> object:
        return self._new("geometry_msgs/msg/Vector3", x=float(v[0]), y=float(v[1]), z=float(v[2]))

    def _header(self, stamp: float, frame: str) -> object:
        nanoseconds = round(stamp * 1e9)
        time = self._new(
            "builtin_interfaces/msg/Time", sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000
        )
        return self._new("std_msgs/msg/Header", stamp=time, frame_id=frame)

    def _new(self, kind: str, **fields: object) -> object:
        return self._types.types[kind](**fields)

    def _write(self, topic: str, stamp: float, message: object) -> None:
        connection = self._connections[topic]
        data = self._types.serialize_cdr(message, connection.msgtype)  # type: ignore[attr-defined]
        self._writer.write(connection, round(stamp * 1e9), data)  # type: ignore[arg-type]
