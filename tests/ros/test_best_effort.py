"""The node's default quality of service, as camera drivers have it: best effort on both sides, compressed images."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
from harness import (
    PARAMETERS,
    Client,
    Process,
    command,
    frame_messages,
    odometry_tf,
    render,
    static_tf,
    until,
)
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage

from chorus_ros import conversions, qos

SENT = 20
PERIOD = 0.15  # seconds


def test_compressed_frames_over_best_effort(client: Client, checkpoint: Path, tmp_path: Path) -> None:
    """Nearly all frames are mapped; bytes that are no image are counted, and mapping goes on."""
    parameters = PARAMETERS | {
        "encoder.checkpoint": checkpoint,
        "topics.color_transport": "compressed",
        "topics.depth_transport": "compressed",
    }
    del parameters["topics.reliability"]
    node = Process(command("chorus_ros.perception_node", **parameters), tmp_path / "node.txt")
    publishers = [
        client.node.create_publisher(kind, topic, qos.sensor_input())
        for kind, topic in (
            (CompressedImage, "/camera/color/image_raw/compressed"),
            (CompressedImage, "/camera/depth/image_raw/compressed"),
            (CameraInfo, "/camera/color/camera_info"),
        )
    ]
    try:
        until(lambda: "/chorus/status" in client.last or not node.running(), 90.0)
        assert node.running(), node.text()
        until(lambda: all(p.get_subscription_count() for p in (*publishers, client.tf, client.tf_static)))
        for publisher in publishers:
            (reading,) = client.node.get_subscriptions_info_by_topic(publisher.topic_name)
            assert reading.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
        client.tf_static.publish(static_tf())
        for number in range(SENT):
            stamp = 1.0 + PERIOD * number
            pixels, millimetres, pose = render(number)
            client.tf.publish(odometry_tf(stamp, pose))
            color, depth, info = frame_messages(stamp)
            jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1])[1] if number != SENT // 2 else b"no jpeg at all"
            png = cv2.imencode(".png", millimetres)[1]
            messages = (
                CompressedImage(header=color.header, format="jpeg", data=conversions.byte_array(jpeg)),
                CompressedImage(header=depth.header, format="16UC1; png compressed", data=conversions.byte_array(png)),
                info,
            )
            for publisher, message in zip(publishers, messages, strict=True):
                publisher.publish(message)
            time.sleep(PERIOD)
        until(lambda: client.status.integrated >= 0.8 * SENT, explain=lambda: (client.status, node.text()))
        assert client.drops().get("bad_image", 0) == 1
        assert client.status.gaussians > 200
        assert "image of 14 bytes that begins with b'no jpeg '" in node.text()
        assert node.interrupt() == 0, node.text()
    finally:
        node.end()
        for publisher in publishers:
            client.node.destroy_publisher(publisher)
