"""Parameters set while the node runs, and qualities of service given at its start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from harness import DOMAIN
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from chorus_ros.live_parameters import set_period
from chorus_ros.node import PerceptionNode

OVERRIDES = {
    "publish.cloud_period": 0.0,
    "qos_overrides./camera/color/camera_info.subscription.durability": "transient_local",
    "qos_overrides./camera/color/camera_info.subscription.reliability": "reliable",
    "qos_overrides./camera/color/camera_info.subscription.depth": 3,
    "qos_overrides./chorus/labels.publisher.durability": "volatile",
}


@pytest.fixture(scope="module")
def node(checkpoint: Path) -> Iterator[PerceptionNode]:
    context = rclpy.context.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    parameters = OVERRIDES | {"encoder.checkpoint": str(checkpoint)}
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    node = PerceptionNode(context=context, cli_args=["--ros-args", *arguments])
    yield node
    node.close()
    node.destroy_node()
    rclpy.shutdown(context=context)


def setting(node: PerceptionNode, name: str, value: Any) -> Any:
    (result,) = node.set_parameters([Parameter(name, value=value)])
    return result


def test_values_reach_what_uses_them(node: PerceptionNode) -> None:
    pipeline = node._pipeline
    for name, value, reached in (
        ("map.depth_max", 3.5, lambda: pipeline.map.config.depth_max),
        ("semantics.threshold", 0.7, lambda: pipeline.semantics.config.threshold),
        ("semantics.object_gap", 0.2, lambda: pipeline.semantics.config.object_gap),
        ("encoder.period", 9.0, lambda: pipeline.config.encoder.period),
        ("publish.cloud_color", "rgb", lambda: node._publisher._color),
        ("publish.status_period", 2.5, lambda: node._status_timer.timer_period_ns * 1e-9),
    ):
        assert reached() != value
        assert setting(node, name, value).successful
        assert reached() == value
        assert node.get_parameter(name).value == value
    pipeline.reset()
    assert pipeline.map.config.depth_max == 3.5  # a new map keeps what was set


def test_objects_are_shown_anew_when_their_gap_changes(node: PerceptionNode) -> None:
    before = node._pipeline.semantics.version
    assert setting(node, "semantics.object_gap", 0.3).successful
    assert node._pipeline.semantics.version != before
    now = node._pipeline.semantics.version
    assert setting(node, "publish.status_period", 1.5).successful
    assert node._pipeline.semantics.version == now


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("map.depth_max", 0.1, "map.depth_min = 0.2: expected less than map.depth_max = 0.1"),
        ("map.depth_max", -1.0, "map.depth_max"),
        ("publish.cloud_color", "blue", "publish.cloud_color = 'blue': expected one of"),
        ("map.voxel_size", 0.1, "read-only"),
        ("publish.cloud_period", 1e12, "publish.cloud_period"),
        ("publish.objects_period", 1e-12, "publish.objects_period = 1e-12: expected 0, or a value >= 0.01"),
        ("publish.status_period", 1e-9, "publish.status_period"),
        ("topics.color", "elsewhere", "read-only"),
    ],
)
def test_what_does_not_hold_is_refused_and_changes_nothing(
    node: PerceptionNode, name: str, value: Any, reason: str
) -> None:
    before, config = node.get_parameter(name).value, node._pipeline.config
    result = setting(node, name, value)
    assert not result.successful
    assert reason in result.reason
    assert node.get_parameter(name).value == before
    assert node._pipeline.config == config


def test_period_of_zero_stops_and_another_starts_it(node: PerceptionNode) -> None:
    assert node._cloud_timer.is_canceled()
    assert setting(node, "publish.cloud_period", 0.5).successful
    assert not node._cloud_timer.is_canceled()
    assert node._cloud_timer.timer_period_ns == 500_000_000
    assert setting(node, "publish.cloud_period", 0.0).successful
    assert node._cloud_timer.is_canceled()


def test_longest_period_holds(node: PerceptionNode) -> None:
    assert setting(node, "publish.cloud_period", 86400.0).successful
    assert node._cloud_timer.timer_period_ns == 86_400_000_000_000
    assert setting(node, "publish.cloud_period", 0.0).successful


def test_timer_runs_at_its_new_period(node: PerceptionNode) -> None:
    ran = []
    other = rclpy.create_node("timers", context=node.context)
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(other)
    timer = other.create_timer(3600.0, lambda: ran.append(1))
    set_period(timer, 0.01)
    for _ in range(5):
        executor.spin_once(timeout_sec=5.0)
    assert len(ran) >= 3
    executor.shutdown()
    other.destroy_node()


def test_quality_of_service_follows_the_overrides(node: PerceptionNode) -> None:
    (info,) = node.get_subscriptions_info_by_topic("/camera/color/camera_info")
    assert info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    (image,) = node.get_subscriptions_info_by_topic("/camera/color/image_raw")  # not mentioned
    assert image.qos_profile.durability == DurabilityPolicy.VOLATILE
    assert image.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    (labels,) = node.get_publishers_info_by_topic("/chorus/labels")
    assert labels.qos_profile.durability == DurabilityPolicy.VOLATILE
    (cloud,) = node.get_publishers_info_by_topic("/chorus/semantic_cloud")
    assert cloud.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert node.get_parameter("qos_overrides./camera/color/camera_info.subscription.depth").value == 3
