"""Names of topics, before ROS makes something of them that ends in a traceback."""

from __future__ import annotations

import re

from rclpy.exceptions import NameValidationException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name

from chorus_core.config import ConfigError
from chorus_ros.node_config import NodeConfig


def why_no_topic(node: Node, name: str) -> str:
    """Why a name cannot be that of a topic of the node, in a few words; empty where it can."""
    try:
        validate_full_topic_name(expand_topic_name(name, node.get_name(), node.get_namespace()))
    except (ValueError, NameValidationException) as error:
        # `topic name 'NAME' is invalid: REASON, at /FILE:LINE`, or `Invalid topic name: REASON:` and two more lines
        line = re.sub(r", at /[^\n]*$|:?\n.*", "", str(error), flags=re.DOTALL)
        return line.removeprefix(f"topic name '{name}' is invalid: ").removeprefix("Invalid topic name: ")
    return ""


def check_topics(node: Node, config: NodeConfig) -> None:
    """See that the topics that a node is told to use can be some.

    Raises:
        ConfigError: one cannot; parameter and name are named.
    """
    topics, source = config.topics, config.frames.source
    used = {f"topics.{stream}": getattr(topics, stream) for stream in ("color", "depth", "info")}
    if source != "tf":
        used[f"topics.{source}"] = getattr(topics, source)
    for parameter, name in used.items():
        if why := why_no_topic(node, name):
            raise ConfigError(f"{parameter} = {name!r}: expected the name of a topic ({why})")
    if why := why_no_topic(node, config.publish.topic("semantic_cloud")):
        raise ConfigError(f"publish.namespace = {config.publish.namespace!r}: expected a prefix of topics ({why})")
