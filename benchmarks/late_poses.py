"""``python -m benchmarks.late_poses``: frames that a running node maps when TF comes late, or not at all for a while.

Two processes: the node, and this one, which is camera and TF of a robot that stands in a room.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from chorus_msgs.msg import MapStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from benchmarks.node_process import running_node, use_own_domain
from benchmarks.report import parser, publish
from chorus_core.frames import CameraIntrinsics
from chorus_ros import conversions, qos
from chorus_ros.player import transform_stamped

CAMERA = CameraIntrinsics(260.0, 260.0, 159.5, 119.5, 320, 240)


class Robot(Node):
    """Publishes frames and, later, their transforms; keeps what the node says."""

    def __init__(self) -> None:
        super().__init__("robot")
        self._color = self.create_publisher(Image, "camera/color/image_raw", qos.sensor_input())
        self._depth = self.create_publisher(Image, "camera/depth/image_raw", qos.sensor_input())
        self._info = self.create_publisher(CameraInfo, "camera/color/camera_info", qos.sensor_input())
        self._tf = self.create_publisher(TFMessage, "/tf", qos.TF)
        self.create_subscription(MapStatus, "chorus/status", self._on_status, qos.LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.STREAM)
        self.status = MapStatus()
        self.said: list[str] = []

    def wait_for_node(self) -> None:
        while not all(p.get_subscription_count() for p in (self._color, self._depth, self._info, self._tf)):
            time.sleep(0.1)

    def send_frame(self, stamp: int) -> None:
        header = Header(stamp=conversions.time_message(stamp), frame_id="camera")
        color = np.full((CAMERA.height, CAMERA.width, 3), 127, np.uint8)
        depth = np.full((CAMERA.height, CAMERA.width), 2000, np.uint16)
        self._info.publish(conversions.camera_info_message(header, CAMERA))
        self._color.publish(conversions.image_message(header, color, "rgb8"))
        self._depth.publish(conversions.image_message(header, depth, "16UC1"))

    def send_pose(self, stamp: int) -> None:
        transform = transform_stamped(0, "map", "camera", np.eye(4))
        transform.header.stamp = conversions.time_message(stamp)
        self._tf.publish(TFMessage(transforms=[transform]))

    def _on_status(self, message: MapStatus) -> None:
        self.status = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(": poses") and status.level == DiagnosticStatus.ERROR:
                self.said.append(status.message)


@contextmanager
def connected_robot() -> Iterator[Robot]:
    """A robot that the node hears, and whose callbacks run while the block does."""
    robot = Robot()
    executor = SingleThreadedExecutor()
    executor.add_node(robot)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    try:
        robot.wait_for_node()
        yield robot
    finally:
        executor.shutdown()
        spinning.join()
        robot.destroy_node()


def drive(robot: Robot, rate: float, tf_rate: float, seconds: float, delay: float, lost: float) -> int:
    """Frames, and transforms ``delay`` s late; none of those of ``lost`` s in the middle comes at all."""
    due, sent, posed = [], 0, 0
    gap = ((seconds - lost) / 2, (seconds + lost) / 2)
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds + delay + 1 / tf_rate + 0.2:
        stamp = time.time_ns()
        if now < seconds and now >= sent / rate:
            robot.send_frame(stamp)
            sent += 1
        if now >= posed / tf_rate:
            posed += 1
            if not gap[0] <= now < gap[1]:
                due.append((now + delay, stamp))
        while due and due[0][0] <= now:
            robot.send_pose(due.pop(0)[1])
        time.sleep(0.001)
    return sent


def measure(rate: float, tf_rate: float, seconds: float, delay: float, lost: float, log: Path) -> dict[str, Any]:
    """A row: frames sent, mapped and dropped, and the last that was said of poses."""
    # Nothing is encoded: what is measured is the way of a frame into the map.
    with running_node(log, **{"map.voxel_size": 0.05, "encoder.min_gaussians": 10**9}), connected_robot() as robot:
        time.sleep(1.0)
        sent = drive(robot, rate, tf_rate, seconds, delay, lost)
        time.sleep(2.5)  # the last report
        status = robot.status
    drops = dict(zip(status.drop_causes, map(int, status.drop_counts), strict=True))
    return {
        "rate (Hz)": rate,
        "TF rate (Hz)": tf_rate,
        "TF late by (s)": delay,
        "TF lost for (s)": lost,
        "sent": sent,
        "mapped": int(status.integrated),
        "dropped": str(drops),
        "last said of poses": robot.said[-1] if robot.said else "",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--rate", type=float, default=30.0)
    options.add_argument("--tf-rate", type=float, default=30.0)
    options.add_argument("--seconds", type=float, default=6.0)
    options.add_argument("--delays", type=float, nargs="+", default=[0.0, 0.25, 0.4])
    options.add_argument("--lost", type=float, default=0.0, help="seconds in the middle without any transform")
    parsed = options.parse_args(arguments)
    use_own_domain()
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(parsed.rate, parsed.tf_rate, parsed.seconds, delay, parsed.lost, Path(folder) / "node.log")
            for delay in parsed.delays
        ]
    publish("frames with late poses", rows, torch.device("cpu"), parsed.out)
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
