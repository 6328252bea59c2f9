"""Names that cannot be those of topics are refused by their parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from rclpy.node import Node

from chorus_core.config import ConfigError
from chorus_ros.names import check_topics, why_no_topic
from chorus_ros.parameters import parse_overrides


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    context = rclpy.context.Context()
    rclpy.init(context=context, domain_id=97)
    node = rclpy.create_node("names", context=context, namespace="/robot1")
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.mark.parametrize("name", ["camera/color", "/camera", "~/color", "{node}/color", "x" * 200, "Invalid"])
def test_names_of_topics(node: Node, name: str) -> None:
    assert why_no_topic(node, name) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("my cam", "topic name must not contain characters other than alphanumerics, '_', '~', '{', or '}'"),
        ("a//b", "topic name must not contain repeated '/'"),
        ("", "topic name must not be empty string"),
        ("/", "topic name must not end with a forward slash"),
        ("3d", "topic name token must not start with a number"),
        ("{Invalid}/x", "unknown substitution: {Invalid}"),
        ("x" * 300, "topic length should not exceed '255U - 8U'"),
    ],
)
def test_no_names_of_topics(node: Node, name: str, why: str) -> None:
    assert why_no_topic(node, name) == why


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"topics.color": "my cam"}, "topics.color = 'my cam': expected the name of a topic"),
        ({"topics.depth": "a//b"}, "topics.depth = 'a//b'"),
        ({"topics.info": ""}, "topics.info = '': expected the name of a topic"),
        ({"topics.odometry": "a b", "frames.source": "odometry"}, "topics.odometry = 'a b'"),
        ({"topics.pose": "a b", "frames.source": "pose"}, "topics.pose = 'a b'"),
        ({"publish.namespace": "my robot"}, "publish.namespace = 'my robot': expected a prefix of topics"),
        ({"publish.namespace": "a//b"}, "publish.namespace = 'a//b'"),
    ],
)
def test_parameter_is_named(node: Node, overrides: dict[str, Any], expected: str) -> None:
    _, config = parse_overrides(overrides)
    with pytest.raises(ConfigError, match=expected) as refused:
        check_topics(node, config)
    assert "\n" not in str(refused.value)


def test_topics_that_are_not_read_need_no_name(node: Node) -> None:
    _, config = parse_overrides({"topics.odometry": "", "topics.pose": "", "publish.namespace": "/"})
    check_topics(node, config)
