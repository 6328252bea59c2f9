"""The one typed configuration: a default and a line of help beside every field, strict parsing from YAML.

ROS parameters, the YAML file under ``config/`` and the README's table are all generated from these dataclasses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from chorus_core.io.documents import read_yaml
from chorus_core.io.errors import ReadError

T = TypeVar("T")

_INT64 = 2**63
_MANY = 10**9
"""Gaussians that a map, or one pass over it, may be told to hold: rows are counted in 32 bits."""
_SHORTEST, _LONGEST = 0.01, 86_400.0
"""Seconds that a period may last: a shorter one keeps a core busy, threads cannot wait for any longer."""
_FARTHEST = 1e4
"""Metres of a depth, which is kept in float32."""
_SHOWN = 80
"""Characters of a value in a message."""


class ConfigError(ReadError):
    """An unknown key, a wrong type or a value out of range; the message names the key in dotted form."""


def option(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    choices: tuple[Any, ...] | None = None,
    dynamic: bool = False,
) -> Any:
    """A dataclass field with its help and bounds; tuples are the only sequence type.

    What is ``dynamic`` may be changed while the program runs.
    """
    metadata = {"help": help, "ge": ge, "gt": gt, "le": le, "choices": choices, "dynamic": dynamic}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class MapConfig:
    """The map of 3D Gaussians."""

    voxel_size: float = option(
        0.02, "edge of a voxel in metres; the map holds at most one Gaussian per voxel", gt=0.001, le=1.0
    )
    depth_min: float = option(0.2, "nearest depth used, metres", ge=0.0, le=_FARTHEST, dynamic=True)
    depth_max: float = option(5.0, "farthest depth used, metres", gt=0.0, le=_FARTHEST, dynamic=True)
    max_gaussians: int = option(
        2_000_000, "hard cap; the least recently seen blocks are evicted beyond it", ge=1000, le=_MANY
    )
    stride: int = option(
        0, "use every n-th pixel in x and y; 0 picks the largest that keeps 9 pixels a voxel", ge=0, le=16
    )
    min_share: float = option(
        0.5, "a Gaussian is handed out if this share of the frames that should have measured it did", ge=0.0, le=1.0
    )
    min_hits: int = option(1, "frames that must have measured a Gaussian for it to be handed out", ge=1, le=1_000_000)
    carve: bool = option(True, "remove Gaussians that a later frame sees through", dynamic=True)
    carve_margin: float = option(
        0.06, "metres a Gaussian must lie in front of the measured surface to count as seen through", gt=0.0, le=100.0
    )
    carve_budget: int = option(
        131_072, "Gaussians examined for carving a frame at most (bounds the time)", ge=0, le=_MANY
    )
    max_weight: float = option(
        50.0, "evidence at which running means stop slowing down, so the map follows change", gt=0.0, le=1e6
    )

    def __post_init__(self) -> None:
        if self.depth_min >= self.depth_max:
            raise ConfigError(f"map.depth_min = {self.depth_min}: expected less than map.depth_max = {self.depth_max}")


@dataclass(frozen=True)
class GateConfig:
    """Which frames are held back from the map, counted by cause."""

    max_speed: float = option(
        8.0, "metres a second beyond which a pose is held back as a jump; half a metre is free; 0: any speed", ge=0.0
    )
    max_turn_rate: float = option(
        6.0, "radians a second beyond which a pose is held back as a jump; half a radian is free; 0: any", ge=0.0
    )
    against_map: float = option(
        0.4,
        "a frame is held back that sees through more than this share of the map in view, what it hides left out; "
        "0: never",
        ge=0.0,
        le=1.0,
    )
    depth_scale: float = option(
        1.3,
        "factor between the depth of a frame and of the map beyond which the frame is held back; 0: never",
        ge=0.0,
        le=1000.0,
    )
    release: int = option(
        10, "doubtful frames in a row that fit together before the doubt is dropped, and they are let in", ge=1
    )
    still_frames: int = option(
        10, "frames of a standstill that are fused before those that show nothing new are left out; 0: all", ge=0
    )
    still_motion: float = option(0.01, "metres, and radians, of motion that count as a standstill", ge=0.0, le=100.0)
    still_period: float = option(
        10.0, "seconds after which a frame of a standstill is fused all the same", gt=0.0, le=_LONGEST
    )

    def __post_init__(self) -> None:
        if 0.0 < self.depth_scale <= 1.0:
            raise ConfigError(f"gate.depth_scale = {self.depth_scale}: expected a factor above 1, or 0")


@dataclass(frozen=True)
class EncoderConfig:
    """The Chorus encoder and when it runs."""

    checkpoint: str = option("chorus_mini", "name of a shipped model, or path of a checkpoint")
    device: str = option("auto", "where the encoder runs", choices=("auto", "cpu", "cuda"))
    period: float = option(2.0, "seconds between background encodes at least", ge=_SHORTEST, le=_LONGEST, dynamic=True)
    grid_size: float = option(
        0.0,
        "edge of the encoder's voxels in metres, or the map's where that is coarser; 0 takes what the model reads best",
        ge=0.0,
        le=10.0,
    )
    max_gaussians: int = option(
        60_000, "Gaussians encoded in one pass, one a voxel of the encoder; larger regions are tiled", ge=1000, le=_MANY
    )
    memory_gib: float = option(
        0.0,
        "GiB that an encode may allocate, its weights and output included; smaller passes then; 0 sets no limit",
        ge=0.0,
        le=1e6,
    )
    halo: float = option(0.8, "metres of context around an encoded region", ge=0.0, le=1000.0)
    min_context: int = option(
        25_000,
        "Gaussians, one a voxel of the encoder, read around a change at least; the halo widens until there are as many",
        ge=0,
        le=_MANY,
    )
    min_gaussians: int = option(500, "no encode before the map holds as many", ge=1, le=_MANY)
    per_voxel: str = option(
        "first",
        "what is read where several Gaussians share a voxel: the most opaque one, their mean, or one after the other "
        "in up to 8 passes; the online map has one a voxel",
        choices=("first", "mean", "fragments"),
    )
    smoothing: int = option(
        2, "rounds of averaging features over neighbouring voxels; 0 leaves them as the encoder gives them", ge=0, le=16
    )


@dataclass(frozen=True)
class KeyframeConfig:
    """Frames that are kept, compressed, for what may be done with images later."""

    count: int = option(200, "keyframes at most; 0: none are kept", ge=0, le=100_000)
    mib: int = option(64, "MiB of their compressed images at most", ge=1, le=65536)
    novelty: float = option(
        0.3,
        "share of what a frame shows (blocks of the map, by side and distance) that no keyframe does",
        ge=0.0,
        le=1.0,
    )


@dataclass(frozen=True)
class SemanticsConfig:
    """Text, labels, objects."""

    vocabulary: str = option("indoor", "name of a shipped vocabulary, or path of a text file with a label a line")
    threshold: float = option(
        0.0,
        "relevancy a Gaussian needs to match a query; 0 takes the model's calibrated one",
        ge=0.0,
        le=1.0,
        dynamic=True,
    )
    max_query_chars: int = option(512, "longer query texts are refused", ge=1, le=1_000_000)
    object_gap: float = option(
        0.08, "metres between neighbours of one object at most", ge=0.001, le=100.0, dynamic=True
    )
    min_object_gaussians: int = option(15, "smaller groups are not reported as objects", ge=1, le=_MANY, dynamic=True)
    max_objects: int = option(
        10, "objects in an answer unless the query says otherwise", ge=1, le=1_000_000, dynamic=True
    )


@dataclass(frozen=True)
class Config:
    """Everything the perception pipeline can be told."""

    map: MapConfig = field(default_factory=MapConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    semantics: SemanticsConfig = field(default_factory=SemanticsConfig)
    device: str = option("auto", "where the map lives", choices=("auto", "cpu", "cuda"))
    seed: int = option(0, "seed of everything random", ge=0)


@dataclass(frozen=True)
class Option:
    """One leaf of a configuration: its dotted name, type, default, help, bounds, and whether it may change later."""

    name: str
    type: type
    default: Any
    help: str
    ge: float | None
    gt: float | None
    le: float | None
    choices: tuple[Any, ...] | None
    dynamic: bool


def options(config_type: type, prefix: str = "") -> Iterator[Option]:
    """All leaves of a configuration type, depth first, in order of declaration."""
    hints = get_type_hints(config_type)
    for f in fields(config_type):
        name = f"{prefix}{f.name}"
        if is_dataclass(hints[f.name]):
            yield from options(hints[f.name], f"{name}.")
        else:
            bounds = {k: f.metadata.get(k) for k in ("ge", "gt", "le", "choices")}
            dynamic = f.metadata.get("dynamic", False)
            yield Option(name, hints[f.name], f.default, f.metadata.get("help", ""), **bounds, dynamic=dynamic)


def _check(option_: Option, value: Any) -> Any:
    """The value as the option's type, or a ConfigError naming option, value and expected form."""
    wanted, given = option_.type, f"{option_.name} = {_short(repr(value))}"
    if isinstance(value, int) and not isinstance(value, bool):
        if not -_INT64 <= value < _INT64:  # ROS parameters hold no others
            raise ConfigError(f"{given}: expected a number of at most 64 bits")
        value = float(value) if wanted is float else value
    if isinstance(value, bool) is not (wanted is bool) or not isinstance(value, wanted):
        raise ConfigError(f"{given}: expected {wanted.__name__}")
    if isinstance(value, float) and math.isinf(value):
        raise ConfigError(f"{given}: expected a finite number")
    if option_.choices is not None and value not in option_.choices:
        raise ConfigError(f"{given}: expected one of {list(option_.choices)}")
    for bound, holds, sign in (
        (option_.ge, lambda v, b: v >= b, ">="),
        (option_.gt, lambda v, b: v > b, ">"),
        (option_.le, lambda v, b: v <= b, "<="),
    ):
        if bound is not None and not holds(value, bound):
            raise ConfigError(f"{given}: expected a value {sign} {bound}")
    return value


def _short(text: str) -> str:
    """A text as part of a message of one line."""
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def parse(config_type: type[T], tree: Mapping[str, Any]) -> T:
    """A checked configuration from nested or dotted keys; what is absent takes its default.

    Raises:
        ConfigError: unknown key, wrong type, or value out of range.
    """
    known = {o.name: o for o in options(config_type)}
    flat = flatten(tree)
    unknown = sorted(set(flat) - set(known))
    if unknown:
        raise ConfigError(f"unknown option {', '.join(map(_short, unknown[:5]))}; known are: {', '.join(known)}")
    checked = {name: _check(known[name], value) for name, value in flat.items()}
    return _build(config_type, checked, "")


def _build(config_type: type[T], values: Mapping[str, Any], prefix: str) -> T:
    hints = get_type_hints(config_type)
    arguments: dict[str, Any] = {}
    for f in fields(config_type):
        name = f"{prefix}{f.name}"
        if is_dataclass(hints[f.name]):
            arguments[f.name] = _build(hints[f.name], values, f"{name}.")
        elif name in values:
            arguments[f.name] = values[name]
    return config_type(**arguments)


def load(path: str | Path, config_type: type[T] = Config) -> T:
    """A configuration from a YAML file.

    Raises:
        ConfigError: not YAML, not a mapping, an unknown key, a wrong type, or a value out of range.
        OSError: no such file, or not readable.
    """
    tree = read_yaml(path, error=ConfigError)
    if any(isinstance(node, Mapping) and "ros__parameters" in node for node in tree.values()):
        raise ConfigError(f"{path} is a ROS parameter file, for the node: expected options at the top level")
    return parse(config_type, tree)


def changes(old: Any, new: Any) -> list[Option]:
    """The options in which two configurations of one type differ."""
    before, after = flatten(as_dict(old)), flatten(as_dict(new))
    return [o for o in options(type(old)) if before[o.name] != after[o.name]]


def as_dict(config: Any) -> dict[str, Any]:
    """The nested plain form of a configuration, as YAML would hold it."""
    return dataclasses.asdict(config)
