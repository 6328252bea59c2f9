"""Parsing of the configuration: what is wrong is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from chorus_core.config import Config, ConfigError, MapConfig, as_dict, flatten, load, options, parse


def test_nothing_given_gives_the_defaults() -> None:
    assert parse(Config, {}) == Config()


def test_every_default_is_within_its_own_bounds_and_documented() -> None:
    for option in options(Config):
        assert option.help, f"{option.name} has no help"
        assert parse(Config, {option.name: option.default}) == Config()


def test_plain_form_and_yaml_come_back(tmp_path: Path) -> None:
    config = parse(Config, {"map.voxel_size": 0.05, "encoder": {"halo": 1.5}, "device": "cpu"})
    assert parse(Config, as_dict(config)) == config
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    assert load(tmp_path / "config.yaml") == config


def test_dotted_and_nested_keys_mean_the_same() -> None:
    nested = parse(Config, {"map": {"voxel_size": 0.05, "stride": 2}})
    assert parse(Config, {"map.voxel_size": 0.05, "map.stride": 2}) == nested
    assert (nested.map.voxel_size, nested.map.stride) == (0.05, 2)
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_whole_numbers_are_taken_where_floats_are_wanted() -> None:
    config = parse(Config, {"map.depth_max": 4})
    assert config.map.depth_max == 4.0
    assert isinstance(config.map.depth_max, float)


@pytest.mark.parametrize(
    "key", ["map.voxelsize", "voxel_size", "map.voxel_size.x", "Map.voxel_size", "", "map", "encoder.encoder.halo"]
)
def test_an_unknown_key_is_named_and_the_known_ones_are_listed(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(Config, {key: 1})
    assert f"unknown option {key}" in str(error.value)
    assert "map.voxel_size" in str(error.value)


def test_a_range_of_depths_that_is_empty_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"map\.depth_min = 5\.0: expected less than map\.depth_max = 5\.0"):
        parse(Config, {"map.depth_min": 5.0})


def test_several_unknown_keys_are_all_named() -> None:
    with pytest.raises(ConfigError, match=r"map\.a, map\.b"):
        parse(Config, {"map": {"b": 1, "a": 2, "stride": 1}})


BAD = [
    ("map.voxel_size", 0.0, "> 0.001"),
    ("map.voxel_size", 0.001, "> 0.001"),
    ("map.voxel_size", 1.5, "<= 1.0"),
    ("map.voxel_size", float("nan"), "> 0.001"),
    ("map.voxel_size", "0.02", "float"),
    ("map.voxel_size", None, "float"),
    ("map.voxel_size", True, "float"),
    ("map.max_gaussians", 999, ">= 1000"),
    ("map.max_gaussians", 1e6, "int"),
    ("map.stride", -1, ">= 0"),
    ("map.stride", True, "int"),
    ("map.carve", 1, "bool"),
    ("map.carve", "yes", "bool"),
    ("map.min_hits", [2], "int"),
    ("encoder.device", "gpu", "'auto', 'cpu', 'cuda'"),
    ("encoder.checkpoint", 3, "str"),
    ("semantics.threshold", 1.01, "<= 1.0"),
    ("map.depth_max", 1e300, "<= 10000"),
    ("map.max_gaussians", 2**31, "<= 1000000000"),
    ("map.min_hits", 2**31, "<= 1000000"),
    ("map.max_weight", 1e300, "<= 1000000"),
    ("gate.still_period", 1e12, "<= 86400"),
    ("encoder.period", 1e12, "<= 86400"),
    ("encoder.period", 1e-9, ">= 0.01"),
    ("encoder.memory_gib", 1e300, "<= 1000000"),
    ("semantics.object_gap", 1e-300, ">= 0.001"),
    ("semantics.object_gap", 1e300, "<= 100"),
    ("device", "", "'auto', 'cpu', 'cuda'"),
    ("seed", -1, ">= 0"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD)
def test_a_bad_value_is_named_with_what_was_expected(key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(Config, {key: value})
    message = str(error.value)
    assert message.startswith(f"{key} = {value!r}: expected")
    assert expected in message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("map.depth_max", float("inf"), "map.depth_max = inf: expected a finite number"),
        ("seed", 2**63, "expected a number of at most 64 bits"),
        ("map.depth_max", 10**400, r"= 1000.*\.\.\.: expected a number of at most 64 bits"),
        ("encoder.min_gaussians", "5" + "{" * 10**6, r"'5\{+\.\.\.: expected int"),
        ("a\nb" + "c" * 10**6, 1, r"unknown option 'a\\nbc+\.\.\.; known are"),
    ],
)
def test_what_a_message_shows_is_short_and_of_one_line(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse(Config, {key: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 3000


@pytest.mark.parametrize(
    "content", [b"map: [", b"a: &a [1]\nb: *a\n", b"\xff\xfe\x00", b"[" * 10**5, b"a" * (1 << 21), b"\x01"]
)
def test_a_damaged_file_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml") as error:
        load(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "voxel_size", "3\n"])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: expected a mapping"):
        load(path)


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load(tmp_path / "empty.yaml") == Config()


def test_configurations_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MapConfig().stride = 2  # type: ignore[misc]
