"""Poses from messages: what the source answers for each way a robot may publish them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import rclpy.logging
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from chorus_core.stamps import nanoseconds
from chorus_ros.conversions import pose_message, time_message, transform_message
from chorus_ros.node_config import FramesConfig, NodeConfig, SyncConfig
from chorus_ros.poses import BufferedPoses

SECOND = 1_000_000_000


class FakeNode:
    """Takes subscriptions; messages are delivered by calling the callback of their topic."""

    def __init__(self) -> None:
        self.callbacks = {}

    def get_logger(self) -> Any:
        return rclpy.logging.get_logger("test_poses")

    def create_subscription(self, kind, topic, callback, **_) -> None:
        self.callbacks[topic] = callback


def shift(x: float, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = (x, y, z)
    return matrix


def tf(parent: str, child: str, stamp: float, matrix: np.ndarray) -> TFMessage:
    header = Header(stamp=time_message(nanoseconds(stamp)), frame_id=parent)
    return TFMessage(
        transforms=[TransformStamped(header=header, child_frame_id=child, transform=transform_message(matrix))]
    )


class Bench:
    """A source on a fake node, with what it reported."""

    def __init__(self, gap: float = 600.0, **frames: str) -> None:
        self.node, self.arrivals, self.rejected = FakeNode(), 0, []
        sync = dataclasses.replace(SyncConfig(), pose_gap=gap)
        config = dataclasses.replace(NodeConfig(), frames=FramesConfig(**frames), sync=sync)
        self.source = BufferedPoses(self.node, config, None, self._arrive, lambda cause, e: self.rejected.append(cause))

    def _arrive(self) -> None:
        self.arrivals += 1

    def send(self, topic: str, message: object) -> None:
        self.node.callbacks[topic](message)

    def odometry(self, stamp: float, matrix: np.ndarray, child: str = "base", parent: str = "odom") -> None:
        message = Odometry(header=Header(stamp=time_message(nanoseconds(stamp)), frame_id=parent), child_frame_id=child)
        message.pose.pose = pose_message(matrix)
        self.send("odom", message)

    def pose(self, stamp: float, matrix: np.ndarray) -> None:
        header = Header(stamp=time_message(nanoseconds(stamp)), frame_id="world")
        self.send("camera/pose", PoseStamped(header=header, pose=pose_message(matrix)))


def test_tf_is_interpolated_and_composed() -> None:
    bench = Bench(source="tf")
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0, 0, 1)))
    bench.send("/tf", tf("map", "base", 1.0, shift(0)))
    assert bench.source.lookup("camera", round(1.5 * SECOND)) is None  # not yet
    bench.send("/tf", tf("map", "base", 2.0, shift(2)))
    np.testing.assert_allclose(bench.source.lookup("camera", round(1.5 * SECOND)), shift(1, 0, 1), atol=1e-9)
    assert bench.arrivals == 3
    assert bench.source.map_frame == "map"


def test_missing_tf_says_what_is_missing() -> None:
    bench = Bench(source="tf")
    assert bench.source.lookup("camera", SECOND) is None
    assert "camera" in bench.source.why_not()


def test_odometry_with_extrinsics_from_tf() -> None:
    bench = Bench(source="odometry")
    assert bench.source.map_frame == ""
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0.1)))
    bench.odometry(1.0, shift(3))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3.1), atol=1e-9)
    assert bench.source.map_frame == "odom"


def test_odometry_with_extrinsics_from_the_parameter() -> None:
    bench = Bench(source="odometry", base_from_camera="0 0 1.5 0 0 0 1")
    bench.odometry(1.0, shift(3))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3, 0, 1.5), atol=1e-9)


def test_odometry_without_extrinsics_has_no_answer() -> None:
    bench = Bench(source="odometry")
    bench.odometry(1.0, shift(3))
    assert bench.source.lookup("camera", SECOND) is None


def test_tf_wins_over_the_parameter_where_it_knows() -> None:
    bench = Bench(source="odometry", base_from_camera="0 0 1.5 0 0 0 1")
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0.1)))
    bench.odometry(1.0, shift(3))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3.1), atol=1e-9)


@pytest.mark.parametrize("source", ["odometry", "pose"])
def test_unnamed_base_with_extrinsics(source: str) -> None:
    """Odometry with an empty child_frame_id, or a PoseStamped: by the parameter."""
    bench = Bench(source=source, base_from_camera="0 0 1.5 0 0 0 1")
    if source == "odometry":
        bench.odometry(1.0, shift(3), child="")
    else:
        bench.pose(1.0, shift(3))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3, 0, 1.5), atol=1e-9)


def test_unnamed_base_of_odometry_is_the_root_of_the_cameras_static_transforms(capfd) -> None:
    """base > mast > camera, and something that moves above: the mounting counts, and it is said once."""
    bench = Bench(source="odometry")
    bench.send("/tf_static", tf("base", "mast", 0.0, shift(0.1)))
    bench.send("/tf_static", tf("mast", "camera", 0.0, shift(0, 0, 1)))
    bench.send("/tf", tf("elsewhere", "base", 1.0, shift(99)))
    bench.odometry(1.0, shift(3), child="")
    for _ in range(3):
        np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3.1, 0, 1), atol=1e-9)
    assert capfd.readouterr().err.count("it is taken to be of 'base'") == 1


def test_unnamed_base_of_odometry_without_a_mounting_has_no_answer() -> None:
    """A body's pose taken for the optical frame's would lay the map on its side."""
    bench = Bench(source="odometry")
    bench.odometry(1.0, shift(3), child="")
    assert bench.source.lookup("camera", SECOND) is None
    assert "child_frame_id" in bench.source.why_not()
    assert "frames.base" in bench.source.why_not()


def test_lookups_say_what_they_look_for() -> None:
    assert Bench(source="tf").source.subject("camera") == "transform from 'camera' to 'map'"
    assert Bench(source="odometry").source.subject("camera") == "odometry on odom that places 'camera'"


@pytest.mark.parametrize("source", ["odometry", "pose"])
@pytest.mark.parametrize("base", ["camera", "/camera"])
def test_base_that_is_the_camera(source: str, base: str) -> None:
    """Its poses need no extrinsics, and take none."""
    bench = Bench(source=source, base=base, base_from_camera="0 0 1.5 0 0 0 1")
    if source == "odometry":
        bench.odometry(1.0, shift(3))
    else:
        bench.pose(1.0, shift(3))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3), atol=1e-9)


def test_odometry_of_the_camera_itself() -> None:
    bench = Bench(source="odometry", base_from_camera="0 0 1.5 0 0 0 1")
    bench.odometry(1.0, shift(3), child="/camera")
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3), atol=1e-9)


def test_named_base_wins_over_that_of_the_odometry() -> None:
    bench = Bench(source="odometry", base="body")
    bench.send("/tf_static", tf("body", "camera", 0.0, shift(0.1)))
    bench.send("/tf_static", tf("base", "camera_2", 0.0, shift(7)))
    bench.odometry(1.0, shift(3), child="base")
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3.1), atol=1e-9)


def test_pose_of_a_base_with_extrinsics_from_the_parameter() -> None:
    bench = Bench(source="pose", base="base", base_from_camera="0 0 1.5 0 0 0 1")
    bench.pose(1.0, shift(1))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(1, 0, 1.5), atol=1e-9)


def test_pose_of_a_base_without_extrinsics_has_no_answer() -> None:
    bench = Bench(source="pose", base="base")
    bench.pose(1.0, shift(1))
    assert bench.source.lookup("camera", SECOND) is None
    assert "camera" in bench.source.why_not()


def test_map_far_from_the_origin_of_the_earth() -> None:
    """utm -> map is hundreds of kilometres long; nothing is wrong with that, and poses in the map are near."""
    bench = Bench(source="tf")
    bench.send("/tf_static", tf("utm", "map", 0.0, shift(5e5, 5.4e6)))
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0, 0, 1)))
    bench.send("/tf", tf("utm", "base", 1.0, shift(5e5 + 3, 5.4e6)))
    assert bench.rejected == []
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(3, 0, 1), atol=1e-6)


def test_odometry_beside_tf_of_the_same_frames() -> None:
    """Robots publish odom > base on both; the two must not disturb each other."""
    bench = Bench(source="odometry", map="map")
    bench.send("/tf_static", tf("map", "odom", 0.0, shift(10)))
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0.1)))
    bench.send("/tf", tf("odom", "base", 1.0, shift(99)))
    bench.odometry(1.0, shift(3))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(13.1), atol=1e-9)


def test_pose_of_the_camera_itself() -> None:
    bench = Bench(source="pose")
    bench.pose(1.0, shift(1, 2, 3))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(1, 2, 3), atol=1e-9)
    assert bench.source.map_frame == "world"


def test_pose_of_a_base() -> None:
    bench = Bench(source="pose", base="base")
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0.1)))
    bench.pose(1.0, shift(1))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(1.1), atol=1e-9)


def test_bad_poses_are_rejected_and_the_good_ones_stay() -> None:
    bench = Bench(source="tf")
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0)))
    bench.send("/tf", tf("map", "base", 1.0, shift(1)))
    broken = tf("map", "base", 1.5, shift(5))
    broken.transforms[0].transform.rotation.w = float("nan")
    bench.send("/tf", broken)
    bench.send("/tf", tf("", "base", 1.6, shift(5)))
    assert bench.rejected == ["bad_pose", "bad_pose"]
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(1), atol=1e-9)


def test_reset_keeps_static_transforms() -> None:
    bench = Bench(source="tf")
    bench.send("/tf_static", tf("base", "camera", 0.0, shift(0, 0, 1)))
    bench.send("/tf", tf("map", "base", 50.0, shift(1)))
    bench.source.reset()
    assert bench.source.lookup("camera", 50 * SECOND) is None
    bench.send("/tf", tf("map", "base", 1.0, shift(2)))
    np.testing.assert_allclose(bench.source.lookup("camera", SECOND), shift(2, 0, 1), atol=1e-9)


def test_bad_extrinsics_are_an_error_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"frames\.base_from_camera"):
        Bench(source="odometry", base_from_camera="1 2 3")


def test_a_gap_in_the_poses_is_not_bridged() -> None:
    bench = Bench(source="tf", gap=1.0)
    for stamp in (1.0, 1.9, 4.0):
        bench.send("/tf", tf("map", "camera", stamp, shift(stamp)))
    np.testing.assert_allclose(bench.source.lookup("camera", 3 * SECOND // 2), shift(1.5), atol=1e-9)
    assert bench.source.lookup("camera", 3 * SECOND) is None
    assert "2.100 s apart, expected at most 1 s" in bench.source.why_not()
    np.testing.assert_allclose(bench.source.lookup("camera", 4 * SECOND), shift(4), atol=1e-9)
