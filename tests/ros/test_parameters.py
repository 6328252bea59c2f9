"""ROS parameters come from the dataclasses, and nothing else is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import rclpy
import rclpy.node
import yaml

from chorus_core.config import Config, ConfigError, flatten
from chorus_ros.node_config import NodeConfig
from chorus_ros.parameters import declare, known_options, main, parse_overrides, to_markdown, to_yaml, warn_unused


def test_defaults_without_overrides() -> None:
    assert parse_overrides({}) == (Config(), NodeConfig())


def test_values_reach_both_configurations() -> None:
    config, node_config = parse_overrides({"map.voxel_size": 0.04, "frames.source": "odometry", "use_sim_time": True})
    assert config.map.voxel_size == 0.04
    assert node_config.frames.source == "odometry"


def test_names_are_unique_and_explained() -> None:
    known = known_options()
    assert len(known) > 25
    assert all(option.help for option in known.values())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("map.voxelsize", 0.04, "unknown parameter map.voxelsize; did you mean map.voxel_size"),
        ("checkpoint", "a", "unknown parameter checkpoint; did you mean encoder.checkpoint"),
        ("map.zzz", 1, "unknown parameter map.zzz; did you mean map."),
        ("qos_overrides./odom.subscription.reliability", "sure", "reliability = 'sure': expected one of .*'reliable'"),
        ("qos_overrides./odom.subscription.depth", -1, "depth = -1: expected a number"),
        ("qos_overrides./odom.subscription.depth", 99_999_999_999, "depth = 99999999999: expected .*100000 at most"),
        ("map.voxel_size", -1.0, "map.voxel_size = -1.0"),
        ("map.voxel_size", "small", "map.voxel_size = 'small'"),
        ("frames.source", "gps", "frames.source = 'gps'.*tf"),
        ("sync.depth", 0, "sync.depth = 0"),
        ("sync.pose_history", 1e-9, r"sync.pose_history = 1e-09: expected a value >= 0\.01"),
        ("publish.cloud_period", 1e12, r"publish.cloud_period = 1000000000000\.0: expected a value <= 86400"),
        ("publish.objects_period", 1e12, "publish.objects_period = .*<= 86400"),
        ("publish.objects_period", 1e-12, r"publish.objects_period = 1e-12: expected 0, or a value >= 0\.01"),
        ("publish.cloud_period", 0.009, "publish.cloud_period = 0.009: expected 0, or"),
        ("publish.status_period", 1e-9, r"publish.status_period = 1e-09: expected a value >= 0\.01"),
        ("publish.stale_after", 1e12, "publish.stale_after = .*<= 86400"),
        ("publish.stale_after", 1e-9, r"publish.stale_after = 1e-09: expected a value >= 0\.01"),
    ],
)
def test_bad_parameters_are_named(name: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        parse_overrides({name: value})


@pytest.mark.parametrize("seconds", [0.0, 0.01, 86400.0])
def test_shortest_and_longest_period(seconds: float) -> None:
    """Zero is never, or on request only."""
    periods = {"publish.cloud_period": seconds, "publish.objects_period": seconds}
    _, node_config = parse_overrides(periods)
    assert (node_config.publish.cloud_period, node_config.publish.objects_period) == (seconds, seconds)


@pytest.mark.parametrize("name", ["zzz", "robot_description", "publish_frequency", "controller.gains.p", "base_frame"])
def test_parameters_of_other_nodes_are_left_alone(name: str) -> None:
    """A file for all nodes of a robot holds some."""
    assert parse_overrides({name: 1}) == (Config(), NodeConfig())


@pytest.mark.parametrize(("given", "taken"), [("/map", "map"), ("map", "map"), ("", ""), ("/robot1/map", "robot1/map")])
def test_frames_lose_the_slash_of_ros_1(given: str, taken: str) -> None:
    """tf2 refuses it."""
    _, node_config = parse_overrides({f"frames.{name}": given for name in ("map", "camera", "base")})
    frames = node_config.frames
    assert (frames.map, frames.camera, frames.base) == (taken, taken, taken)


def test_tilde_of_a_path_is_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/robot")
    names = ("publish.map_folder", "encoder.checkpoint", "semantics.vocabulary")
    config, node_config = parse_overrides(dict.fromkeys(names, "~/there"))
    paths = node_config.publish.map_folder, config.encoder.checkpoint, config.semantics.vocabulary
    assert paths == ("/home/robot/there",) * 3
    assert parse_overrides({"publish.map_folder": "out/~maps"})[1].publish.map_folder == "out/~maps"


def test_file_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["parameters", "/nope/x"])
    with pytest.raises(SystemExit, match=r"^/nope/x: No such file or directory$"):
        main()


def test_extrinsics_with_tf_are_refused() -> None:
    """They would be ignored: TF is asked for the whole way to the camera."""
    extrinsics = {"frames.base_from_camera": "0 0 1.5 0 0 0 1"}
    with pytest.raises(ConfigError, match=r"frames\.base_from_camera = '0 0 1\.5 .* expected odometry or pose"):
        parse_overrides(extrinsics)
    with pytest.raises(ConfigError, match=r"frames\.source = tf"):
        parse_overrides(extrinsics | {"frames.source": "tf"})
    for source in ("odometry", "pose"):
        _, node_config = parse_overrides(extrinsics | {"frames.source": source})
        assert node_config.frames.base_from_camera == "0 0 1.5 0 0 0 1"


def test_shipped_file_is_current(repository: Path) -> None:
    """Run ``python -m chorus_ros.parameters config/perception.yaml`` when this fails."""
    assert (repository / "config" / "perception.yaml").read_text(encoding="utf-8") == to_yaml()


def test_table_has_a_row_for_every_parameter() -> None:
    rows = to_markdown().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(known_options())
    assert all(row.count("|") == 4 for row in rows)


def test_shipped_file_holds_every_default() -> None:
    values = flatten(yaml.safe_load(to_yaml())["/**"]["ros__parameters"])
    assert values == {name: option.default for name, option in known_options().items()}
    assert parse_overrides(values) == (Config(), NodeConfig())


class TestWithRclpy:
    """What rclpy makes of the declarations."""

    @pytest.fixture
    def context(self):
        context = rclpy.context.Context()
        rclpy.init(context=context, domain_id=97)
        yield context
        rclpy.shutdown(context=context)

    def declared(self, context, *arguments: str):
        node = rclpy.node.Node("probe", context=context, cli_args=["--ros-args", *arguments])
        try:
            return node, declare(node)
        finally:
            node.destroy_node()

    def test_declared_with_help_and_range(self, context) -> None:
        node, (config, _) = self.declared(context, "-p", "map.voxel_size:=0.05")
        assert config.map.voxel_size == 0.05
        assert node.get_parameter("map.voxel_size").value == 0.05
        descriptor = node.describe_parameter("map.voxel_size")
        assert descriptor.read_only
        assert not node.describe_parameter("map.depth_max").read_only
        assert "may be set while it runs" in to_yaml().partition("depth_max:")[0].splitlines()[-2]
        assert descriptor.description == known_options()["map.voxel_size"].help
        assert descriptor.floating_point_range[0].to_value == 1.0
        assert set(known_options()) <= set(node._parameters)

    def test_integer_for_a_float(self, context) -> None:
        node, (config, _) = self.declared(context, "-p", "map.depth_max:=4")
        assert config.map.depth_max == 4.0
        assert node.get_parameter("map.depth_max").value == 4.0

    def test_unknown_from_the_command_line(self, context) -> None:
        with pytest.raises(ConfigError, match=r"map\.voxels"):
            self.declared(context, "-p", "map.voxels:=1")

    def test_unknown_from_a_file(self, context, tmp_path: Path) -> None:
        path = tmp_path / "params.yaml"
        path.write_text("/**:\n  ros__parameters:\n    encoder:\n      chekpoint: a\n")
        with pytest.raises(ConfigError, match=r"encoder\.chekpoint; did you mean encoder\.checkpoint"):
            self.declared(context, "--params-file", str(path))

    def test_what_is_not_ours_is_named_in_a_warning(self, context, capfd: pytest.CaptureFixture[str]) -> None:
        arguments = ("robot_description:=a", "qos_overrides./elsewhere.subscription.depth:=3", "use_sim_time:=false")
        node = rclpy.node.Node(
            "probe", context=context, cli_args=["--ros-args", *(part for a in arguments for part in ("-p", a))]
        )
        declare(node)
        warn_unused(node)
        node.destroy_node()
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "left alone" in line]
        assert line.endswith("left alone: qos_overrides./elsewhere.subscription.depth, robot_description")

    def test_name_of_no_topic(self, context) -> None:
        with pytest.raises(ConfigError, match=r"topics\.color = 'my cam': expected the name of a topic"):
            self.declared(context, "-p", "topics.color:=my cam")

    def test_shipped_file_is_accepted(self, context, repository: Path) -> None:
        _, (config, node_config) = self.declared(
            context, "--params-file", str(repository / "config" / "perception.yaml")
        )
        assert (config, node_config) == (Config(), NodeConfig())
