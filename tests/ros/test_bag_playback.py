"""A recorded bag through the player into the node: compressed images, poses from odometry, time from /clock."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from chorus_msgs.msg import MapStatus
from harness import CAMERA, FRAMES, PARAMETERS, Client, Process, command, render, until
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from chorus_core.stamps import nanoseconds
from chorus_ros import qos
from chorus_ros.conversions import byte_array, camera_info_message, pose_message, time_message
from chorus_ros.player import BASE_FRAME, BASE_FROM_CAMERA, CAMERA_FRAME, ODOMETRY_FRAME, transform_stamped

START = 1_700_000_000.0
PERIOD = 0.15


def recorded(number: int) -> list[tuple[str, str, object]]:
    """(topic, type, message) of one frame, as a robot records it: odometry a little before and after each image."""
    color, depth, pose = render(number)
    stamp = START + PERIOD * number
    header = Header(stamp=time_message(nanoseconds(stamp)), frame_id=CAMERA_FRAME)
    jpeg = cv2.imencode(".jpg", color[:, :, ::-1])[1]
    png = cv2.imencode(".png", depth)[1]
    messages: list[tuple[str, str, object]] = []
    for offset in (-0.05, 0.05):
        odometry = Odometry(header=Header(stamp=time_message(nanoseconds(stamp + offset)), frame_id=ODOMETRY_FRAME))
        odometry.child_frame_id = BASE_FRAME
        odometry.pose.pose = pose_message(pose @ np.linalg.inv(BASE_FROM_CAMERA))
        messages.append(("/odom", "nav_msgs/msg/Odometry", odometry))
    image, info = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
    packed = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=byte_array(jpeg))
    messages.insert(1, ("/camera/color/image_raw/compressed", image, packed))
    packed = CompressedImage(header=header, format="16UC1; png compressed ", data=byte_array(png))
    messages.insert(1, ("/camera/depth/image_raw/compressed", image, packed))
    messages.insert(1, ("/camera/color/camera_info", info, camera_info_message(header, CAMERA)))
    return messages


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mcap recording of the room, with static TF for the camera's mounting."""
    folder = tmp_path_factory.mktemp("bag") / "room"
    store = get_typestore(Stores.ROS2_JAZZY)
    mounting = TFMessage(transforms=[transform_stamped(nanoseconds(START), BASE_FRAME, CAMERA_FRAME, BASE_FROM_CAMERA)])
    timeline = [(START - 0.1, ("/tf_static", "tf2_msgs/msg/TFMessage", mounting))]
    for number in range(FRAMES):
        parts = recorded(number)
        start = START + PERIOD * number - 0.05
        timeline += [(start + 0.1 * i / len(parts), part) for i, part in enumerate(parts)]
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for stamp, (topic, kind, message) in timeline:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], round(stamp * 1e9), serialize_message(message))
    return folder


def test_bag_into_node(bag: Path, client: Client, checkpoint: Path, tmp_path: Path) -> None:
    parameters = PARAMETERS | {
        "use_sim_time": True,
        "encoder.checkpoint": checkpoint,
        "topics.color_transport": "compressed",
        "topics.depth_transport": "compressed",
        "frames.source": "odometry",
    }
    node = Process(command("chorus_ros.perception_node", **parameters), tmp_path / "node.txt")
    player = None
    try:
        until(lambda: "/chorus/labels" in client.last or not node.running(), 90.0)
        assert node.running(), node.text()
        player = Process(command("chorus_ros.player_node", str(bag), "--clock"), tmp_path / "player.txt")
        assert player.wait(60.0) == 0, player.text()
        until(lambda: client.status.integrated >= FRAMES - 2, explain=lambda: (client.status, node.text()))
        assert client.status.header.frame_id == ODOMETRY_FRAME
        assert client.status.header.stamp.sec >= START
        assert client.status.gaussians > 200
        assert client.drops().get("bad_image", 0) == 0
        assert node.interrupt() == 0, node.text()
    finally:
        for process in filter(None, (node, player)):
            process.end()


def test_bag_into_a_node_in_a_namespace(bag: Path, checkpoint: Path, client: Client, tmp_path: Path) -> None:
    """As the launch file starts both with ``namespace:=robot1 bag:=...``: what was recorded at the root is heard."""
    parameters = PARAMETERS | {
        "encoder.checkpoint": checkpoint,
        "topics.color_transport": "compressed",
        "topics.depth_transport": "compressed",
        "frames.source": "odometry",
    }
    namespace = ["-r", "__ns:=/robot1"]
    heard = []
    listening = client.node.create_subscription(MapStatus, "/robot1/chorus/status", heard.append, qos.LATCHED)
    node = Process([*command("chorus_ros.perception_node", **parameters), *namespace], tmp_path / "node.txt")
    player = None
    try:
        until(lambda: heard or not node.running(), 90.0)
        assert node.running(), node.text()
        names = ("camera/color/image_raw/compressed", "camera/depth/image_raw/compressed", "camera/color/camera_info")
        rules = [part for name in (*names, "odom") for part in ("-r", f"/{name}:={name}")]
        playing = [*command("chorus_ros.player_node", str(bag)), "--ros-args", *namespace, *rules]
        player = Process(playing, tmp_path / "player.txt")
        assert player.wait(60.0) == 0, player.text()
        until(lambda: heard[-1].integrated >= FRAMES - 2, explain=lambda: (heard[-1], node.text()))
    finally:
        client.node.destroy_subscription(listening)
        for process in filter(None, (node, player)):
            process.end()


def test_unreadable_bag(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"\x89MCAP0\r\n nothing more")
    process = Process(command("chorus_ros.player_node", str(broken)), tmp_path / "log.txt")
    try:
        assert process.wait(60.0) != 0
        assert "not a readable rosbag2 recording" in process.text()
        assert "Traceback" not in process.text()
    finally:
        process.end()
