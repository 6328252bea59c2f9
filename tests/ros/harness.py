"""What the tests of running nodes share: a room to see, processes, and a node of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from chorus_msgs.msg import LabelInfo, MapStatus
from chorus_msgs.srv import Query
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from chorus_core.frames import CameraIntrinsics
from chorus_core.stamps import nanoseconds
from chorus_ros import conversions, qos
from chorus_ros.player import (
    BASE_FRAME,
    BASE_FROM_CAMERA,
    CAMERA_FRAME,
    MAP_FRAME,
    ODOMETRY_FRAME,
    transform_stamped,
)

CAMERA = CameraIntrinsics(130.0, 130.0, 79.5, 59.5, 160, 120)
FRAMES = 24
# Two test runs on one machine do not hear each other. From 102 up, the ports of a domain (7400 + 250 x domain) are
# among those that Linux gives to anybody (32768 to 60999): nodes then miss each other now and then.
DOMAIN = 1 + os.getpid() % 90
ENVIRONMENT = os.environ | {"ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
PARAMETERS = {
    "map.voxel_size": 0.05,
    # Every frame must arrive and be kept, on a machine that stalls for seconds too.
    "topics.reliability": "reliable",
    "sync.depth": 2 * FRAMES,
    "sync.frames": 2 * FRAMES,
    "encoder.period": 0.2,
    "encoder.min_gaussians": 200,
    "publish.status_period": 0.2,
    "publish.cloud_period": 0.5,
    "publish.objects_period": 0.5,
    "sync.pose_wait": 2.0,
}


def render(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inside a box of 4 x 3 x 2.5 m, looking around: RGB uint8, millimetres uint16, world_from_camera [4, 4]."""
    yaw = 0.05 * number
    forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    right, down = np.array([np.sin(yaw), -np.cos(yaw), 0.0]), np.array([0.0, 0.0, -1.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, down, forward], axis=1)
    pose[:3, 3] = (0.0, 0.0, 1.2)
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], axis=-1)
    directions = rays @ pose[:3, :3].T
    low, high = np.array([-2.0, -1.5, 0.0]), np.array([2.0, 1.5, 2.5])
    walls = np.where(directions > 0, high, low) - pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(np.abs(directions) > 1e-9, walls / directions, np.inf)
    face, z = hits.argmin(axis=-1), hits.min(axis=-1)
    color = np.array([[200, 60, 60], [60, 200, 60], [90, 90, 220]], np.uint8)[face]
    return color, np.round(z * 1000).astype(np.uint16), pose


def command(module: str, *arguments: str, **parameters: Any) -> list[str]:
    ros = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    return [sys.executable, "-m", module, *arguments, *(["--ros-args", *ros] if ros else [])]


class Process:
    """A node process whose output is kept."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=file, stderr=subprocess.STDOUT)

    def running(self) -> bool:
        return self._process.poll() is None

    def interrupt(self, timeout: float = 20.0, times: int = 1) -> int:
        """Ctrl-C, once or several times in quick succession; the exit status."""
        for _ in range(times):
            self._process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        return self._process.wait(timeout)

    def signal_until_gone(self, number: signal.Signals, times: int, timeout: float = 30.0) -> int:
        """A signal every 20 ms, ``times`` at most, for as long as the process lives; the exit status."""
        deadline = time.monotonic() + timeout
        while self.running() and times and time.monotonic() < deadline:
            self._process.send_signal(number)
            times -= 1
            time.sleep(0.02)
        return self._process.wait(timeout)

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)

    def end(self) -> None:
        if self.running():
            self._process.kill()
            self._process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Client:
    """This process's own node: keeps the last message of each topic and calls services."""

    def __init__(self) -> None:
        self.context = rclpy.context.Context()
        rclpy.init(context=self.context, domain_id=DOMAIN)
        self.node = rclpy.create_node("test_client", context=self.context)
        self.last: dict[str, Any] = {}
        for kind, topic, profile in (
            (LabelInfo, "/chorus/labels", qos.LATCHED),
            (MapStatus, "/chorus/status", qos.LATCHED),
            (PointCloud2, "/chorus/semantic_cloud", qos.LATCHED),
            (PointCloud2, "/chorus/query_cloud", qos.LATCHED),
            (MarkerArray, "/chorus/objects", qos.LATCHED),
            (DiagnosticArray, "/diagnostics", qos.STREAM),
        ):
            self.node.create_subscription(kind, topic, lambda m, t=topic: self.last.__setitem__(t, m), profile)
        self.color = self.node.create_publisher(Image, "/camera/color/image_raw", qos.STREAM)
        self.depth = self.node.create_publisher(Image, "/camera/depth/image_raw", qos.STREAM)
        self.info = self.node.create_publisher(CameraInfo, "/camera/color/camera_info", qos.STREAM)
        self.tf = self.node.create_publisher(TFMessage, "/tf", qos.TF)
        self.tf_static = self.node.create_publisher(TFMessage, "/tf_static", qos.TF_STATIC)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)
        self._closing = False
        self._thread.start()

    def _spin(self) -> None:
        while not self._closing:
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def call(self, kind: Any, name: str, request: Any, timeout: float = 60.0) -> Any:
        client = self.node.create_client(kind, name)
        try:
            assert client.wait_for_service(timeout), f"{name} is not offered"
            future = client.call_async(request)
            until(future.done, timeout)
            return future.result()
        finally:
            self.node.destroy_client(client)

    @property
    def status(self) -> MapStatus:
        return self.last["/chorus/status"]

    def drops(self) -> dict[str, int]:
        return dict(zip(self.status.drop_causes, self.status.drop_counts, strict=True))

    def query(self, text: str, **fields: Any) -> Query.Response:
        return self.call(Query, "/chorus/query", Query.Request(text=text, **fields))

    def send(self, stamp: float | Time, **fields: Any) -> None:
        """One frame, good unless told otherwise (see :func:`frame_messages`); its pose is up to others."""
        for publisher, message in zip(
            (self.color, self.depth, self.info), frame_messages(stamp, **fields), strict=True
        ):
            publisher.publish(message)


def frame_messages(
    stamp: float | Time,
    color: Image | None = None,
    depth: Image | None = None,
    frame_id: str = CAMERA_FRAME,
    **calibration: Any,
) -> tuple[Image, Image, CameraInfo]:
    """Colour, depth and calibration of the room's first view, with what is given in place of it."""
    pixels, millimetres, _ = render(0)
    stamp = stamp if isinstance(stamp, Time) else conversions.time_message(nanoseconds(stamp))
    header = Header(stamp=stamp, frame_id=frame_id)
    color = color or conversions.image_message(header, pixels, "rgb8")
    depth = depth or conversions.image_message(header, millimetres, "16UC1")
    info = conversions.camera_info_message(header, CAMERA)
    color.header = depth.header = header
    for name, value in calibration.items():
        setattr(info, name, value)
    return color, depth, info


def until(condition: Callable[[], Any], timeout: float = 30.0, explain: Callable[[], Any] = str) -> None:
    """Wait for a condition; fail, with an explanation, when it does not come true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"timed out: {explain()}"
        time.sleep(0.02)


def static_tf() -> TFMessage:
    """What the player publishes on /tf_static."""
    map_from_odometry = transform_stamped(0, MAP_FRAME, ODOMETRY_FRAME, np.eye(4))
    base_from_camera = transform_stamped(0, BASE_FRAME, CAMERA_FRAME, BASE_FROM_CAMERA)
    return TFMessage(transforms=[map_from_odometry, base_from_camera])


def odometry_tf(stamp: float, map_from_camera: np.ndarray) -> TFMessage:
    """What the player publishes on /tf for a camera pose [4, 4]."""
    odometry_from_base = map_from_camera @ np.linalg.inv(BASE_FROM_CAMERA)
    return TFMessage(transforms=[transform_stamped(nanoseconds(stamp), ODOMETRY_FRAME, BASE_FRAME, odometry_from_base)])
