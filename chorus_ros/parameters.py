"""ROS parameters generated from the typed configuration, and the commented YAML file that lists them.

``python -m chorus_ros.parameters config/perception.yaml`` writes that file anew; ``--markdown`` prints a table.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from chorus_core.config import Config, ConfigError, Option, options, parse
from chorus_ros.node_config import DEEPEST, QOS_POLICIES, NodeConfig

if TYPE_CHECKING:
    from rclpy.node import Node

# What rclpy itself reads from parameter overrides.
_BUILTIN = ("use_sim_time", "start_type_description_service")
_QOS_PREFIX = "qos_overrides."

_PATHS = ("encoder.checkpoint", "semantics.vocabulary", "publish.map_folder", "publish.load_map")
"""Those that may be paths: no shell expands the `~` of a YAML file."""

_RESEMBLANCE = 0.7
"""Similarity (difflib) from which an unknown name is taken for a misspelt one of ours."""

_HEADER = """\
# Parameters of perception_node with their defaults, written by `python -m chorus_ros.parameters`.
# Defaults live in chorus_core/config.py and chorus_ros/node_config.py; keep a robot's differences in a file of its own.
"""


def known_options() -> dict[str, Option]:
    """Every parameter of the node by its dotted name: topics, frames and rates first, then the pipeline's."""
    return {o.name: o for o in (*options(NodeConfig), *options(Config))}


def parse_overrides(overrides: Mapping[str, Any]) -> tuple[Config, NodeConfig]:
    """The two checked configurations from parameter overrides with dotted names; absent ones take their defaults.

    Parameters that have nothing to do with ours are left alone: a file for all nodes of a robot (``/**``) holds some.

    Raises:
        ConfigError: an unknown parameter that resembles a known one (both are named), a wrong type, a value out of
            range, or an override of a quality of service that there is none of.
    """
    check_qos_overrides(overrides)
    known = known_options()
    for name in overrides:
        if name not in known and not name.startswith(_QOS_PREFIX) and (near := _resembling(name)):
            raise ConfigError(f"unknown parameter {name}; did you mean {near}?")
    given = {k: v for k, v in overrides.items() if k in known}
    given |= {k: os.path.expanduser(given[k]) for k in _PATHS if isinstance(given.get(k), str)}
    core = {o.name for o in options(Config)}
    config = parse(Config, {k: v for k, v in given.items() if k in core})
    return config, parse(NodeConfig, {k: v for k, v in given.items() if k not in core})


def _resembling(name: str) -> str:
    """The known option that an unknown name was probably meant to be; empty where it is like none."""
    known = list(known_options())
    group, dot, _ = name.partition(".")
    siblings = [k for k in known if dot and k.startswith(f"{group}.")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=_RESEMBLANCE)
    near = near or difflib.get_close_matches(name, siblings, n=1, cutoff=0.0)
    return near[0] if near else ""


def check_qos_overrides(overrides: Mapping[str, Any]) -> None:
    """See that qualities of service are some; rclpy would end with a traceback.

    Raises:
        ConfigError: one is not.
    """
    for name, value in overrides.items():
        if name.startswith(_QOS_PREFIX):
            _check_qos_override(name, value)


def _check_qos_override(name: str, value: Any) -> None:
    policy = name.rpartition(".")[2]
    if policy not in QOS_POLICIES:
        return  # for other nodes perhaps: see warn_unused
    choices = QOS_POLICIES[policy]
    if choices is None:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= DEEPEST:
            raise ConfigError(f"{name} = {value!r}: expected a number of messages, {DEEPEST} at most")
    elif value not in choices:
        raise ConfigError(f"{name} = {value!r}: expected one of {list(choices)}")


def warn_unused(node: Node) -> None:
    """Name parameters that were given but are not the node's. Call it when all of its topics are there."""
    given = [n for n in node._parameter_overrides if n not in _BUILTIN and not node.has_parameter(n)]
    if given:
        node.get_logger().warning(f"not parameters of this node, left alone: {', '.join(sorted(given))}")


def declare(node: Node) -> tuple[Config, NodeConfig]:
    """Declare every option as a parameter, described and bounded, with the value given for it.

    All but the dynamic ones are read-only.

    Raises:
        ConfigError: see :func:`parse_overrides`; or the name of a topic is none.
    """
    from chorus_ros.names import check_topics

    # Read before declaring: rclpy keeps silent about overrides that are never declared, and refuses an integer for a
    # float without naming the parameter.
    config, node_config = parse_overrides({name: p.value for name, p in node._parameter_overrides.items()})
    check_topics(node, node_config)
    for option, value in (*_values(config), *_values(node_config)):
        node.declare_parameter(option.name, value, _descriptor(option), ignore_override=True)
    return config, node_config


def to_yaml() -> str:
    """All parameters with their defaults as a ROS parameter file, each under its help."""
    lines = [_HEADER + "/**:", "  ros__parameters:"]
    open_groups: tuple[str, ...] = ()
    for option in known_options().values():
        *groups, leaf = option.name.split(".")
        for depth, group in enumerate(groups):
            if open_groups[: depth + 1] != tuple(groups[: depth + 1]):
                lines.append(f"{'  ' * (depth + 2)}{group}:")
        open_groups = tuple(groups)
        indent = "  " * (len(groups) + 2)
        help_text = f"{option.help}{_notes(option)}"
        lines += textwrap.wrap(help_text, 118, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        lines.append(f"{indent}{leaf}: {_scalar(option.default)}")
    return "\n".join(lines) + "\n"


def to_markdown() -> str:
    """All parameters as the rows of a Markdown table."""
    rows = ["| parameter | default | meaning |", "|---|---|---|"]
    for o in known_options().values():
        rows.append(f"| `{o.name}` | `{_scalar(o.default)}` | {o.help}{_notes(o)} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the node's parameters with defaults and help as a YAML file.")
    parser.add_argument("path", nargs="?", help="file to write; standard output without it")
    parser.add_argument("--markdown", action="store_true", help="print a table for the README instead")
    arguments = parser.parse_args()
    path = arguments.path
    if arguments.markdown or path is None:
        sys.stdout.write(to_markdown() if arguments.markdown else to_yaml())
        return
    temporary = Path(f"{path}.tmp")
    try:
        temporary.write_text(to_yaml(), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")


def _values(config: Any) -> Iterator[tuple[Option, Any]]:
    for option in options(type(config)):
        value = config
        for part in option.name.split("."):
            value = getattr(value, part)
        yield option, value


def _descriptor(option: Option) -> Any:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    descriptor = ParameterDescriptor(
        description=option.help, additional_constraints=_bounds_text(option), read_only=not option.dynamic
    )
    low = option.ge if option.ge is not None else option.gt
    if option.type is float and (low is not None or option.le is not None):
        low = -sys.float_info.max if low is None else float(low)
        high = sys.float_info.max if option.le is None else float(option.le)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
    elif option.type is int and (low is not None or option.le is not None):
        low = -(2**63) if low is None else int(low)
        high = 2**63 - 1 if option.le is None else int(option.le)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    return descriptor


def _notes(option: Option) -> str:
    """What follows the help: bounds, and whether the option may be set later."""
    notes = [*filter(None, [_bounds_text(option)]), *(["may be set while it runs"] if option.dynamic else [])]
    return f" ({'; '.join(notes)})" if notes else ""


def _bounds_text(option: Option) -> str:
    if option.choices:
        return f"one of {', '.join(map(str, option.choices))}"
    signs = ((">=", option.ge), (">", option.gt), ("<=", option.le))
    parts = [f"{sign} {bound:g}" for sign, bound in signs if bound is not None]
    return ", ".join(parts)


def _scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


if __name__ == "__main__":
    main()
