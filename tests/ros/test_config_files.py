"""The parameter files beside the generated one, and that the node hears the recording they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chorus_core.config import flatten
from chorus_ros.parameters import parse_overrides


def load(path: Path) -> dict:
    return flatten(yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"])


@pytest.mark.parametrize("name", ["demo.yaml", "house.yaml", "recording.yaml"])
def test_parameters_are_accepted(repository: Path, name: str) -> None:
    parse_overrides(load(repository / "config" / name))


@pytest.mark.parametrize("name", ["demo.yaml", "house.yaml"])
def test_topics_and_frame_are_those_of_the_shipped_recording(repository: Path, name: str) -> None:
    _, node = parse_overrides(load(repository / "config" / name))
    path = repository / "data" / "house_drive" / "bag" / "metadata.yaml"
    metadata = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
    recorded = {t["topic_metadata"]["name"] for t in metadata["topics_with_message_count"]}
    topics = node.topics
    wanted = {
        f"/{topics.color}/{topics.color_transport}",
        f"/{topics.depth}/{topics.depth_transport}",
        f"/{topics.info}",
    }
    assert wanted | {"/tf", "/tf_static"} <= recorded
    assert (node.frames.source, node.frames.map) == ("tf", "odom")


def test_house_is_for_watching(repository: Path) -> None:
    _, node = parse_overrides(load(repository / "config" / "house.yaml"))
    assert node.publish.cloud_period > 0
    assert node.publish.objects_period > 0
