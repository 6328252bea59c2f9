"""How the player publishes what a bag holds, and what it cannot start with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from harness import Process, command
from rclpy.context import Context
from rclpy.qos import DurabilityPolicy
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from chorus_core.config import ConfigError
from chorus_ros.player import PlayerNode

TF, TEXT = "tf2_msgs/msg/TFMessage", "std_msgs/msg/String"
TOPICS = {"/tf": TF, "/tf_static": TF, "/robot1/tf_static": TF, "/not_tf_static": TF, "/text/tf_static": TEXT}


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bag") / "fleet"
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        for topic, kind in {**TOPICS, "/my cam": TEXT}.items():
            connection = writer.add_connection(topic, kind, typestore=store)
            writer.write(connection, 10**9, serialize_message(TFMessage() if kind == TF else String()))
    return folder


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=97)
    yield context
    rclpy.shutdown(context=context)


def test_static_transforms_of_every_robot_are_latched(bag: Path, context: Context) -> None:
    player = PlayerNode(bag, context=context)
    durable = {p.topic_name for p in player._source._publishers.values() if is_latched(player, p.topic_name)}
    player.destroy_node()
    assert durable == {"/tf_static", "/robot1/tf_static"}


def is_latched(player: PlayerNode, topic: str) -> bool:
    (info,) = player.get_publishers_info_by_topic(topic)
    return info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL


def test_topics_without_a_name_of_ros_are_left_out(
    bag: Path, context: Context, capfd: pytest.CaptureFixture[str]
) -> None:
    player = PlayerNode(bag, context=context)
    played = set(player._source._publishers)
    player.destroy_node()
    assert played == set(TOPICS)
    assert "/my cam is left out: topic name must not contain characters" in capfd.readouterr().err


@pytest.mark.parametrize(("policy", "value"), [("reliability", "bogus"), ("depth", -3), ("depth", 99_999_999_999)])
def test_bad_quality_of_service_is_named(policy: str, value: object, bag: Path, context: Context) -> None:
    arguments = ["--ros-args", "-p", f"qos_overrides./tf.publisher.{policy}:={value}"]
    with pytest.raises(ConfigError, match=rf"qos_overrides\./tf\.publisher\.{policy} = '?{value}'?: expected"):
        PlayerNode(bag, context=context, cli_args=arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["x" * 300], "File name too long"),
        (["BAG", "--ros-args", "-p", "qos_overrides./tf.publisher.reliability:=bogus"], "reliability = 'bogus'"),
        (["BAG", "--rate", "1e-300"], "argument --rate: 1e-300: expected a number of 0.001 or more"),
        (["BAG", "--wait", "nan"], "argument --wait: nan: expected 0 seconds or more"),
        (["BAG", "--ros-args", "-r", "/tf:=a b"], "Couldn't parse remap rule: '-r /tf:=a b'"),
    ],
)
def test_bad_start_is_one_clear_line(arguments: list[str], expected: str, bag: Path, tmp_path: Path) -> None:
    arguments = [str(bag) if a == "BAG" else a for a in arguments]
    process = Process(command("chorus_ros.player_node", *arguments), tmp_path / "log.txt")
    try:
        assert process.wait(60.0) in (1, 2)  # 2 by argparse
        (line,) = [line for line in process.text().splitlines() if line.startswith("player_node")]
        assert expected in line
        assert "Traceback" not in process.text()
    finally:
        process.end()
