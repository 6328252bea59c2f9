"""Parameters that may be set while the node runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.timer import Timer

from chorus_core.config import Config, ConfigError, as_dict, flatten
from chorus_ros.node_config import NodeConfig
from chorus_ros.parameters import parse_overrides

_NANO = 1_000_000_000


class LiveParameters:
    """Checks what is set as at the start, and passes both configurations on when they hold.

    Args:
        node: whose parameters were declared; ROS itself refuses those that are read-only.
        config: of the pipeline, as declared.
        settings: of the node, as declared.
        apply: takes the new configurations; a ConfigError it raises refuses them.
    """

    def __init__(
        self, node: Node, config: Config, settings: NodeConfig, apply: Callable[[Config, NodeConfig], None]
    ) -> None:
        self._values: dict[str, Any] = flatten(as_dict(settings)) | flatten(as_dict(config))
        self._apply = apply
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters: Sequence[Any]) -> SetParametersResult:
        values = self._values | {p.name: p.value for p in parameters if p.name in self._values}
        try:
            self._apply(*parse_overrides(values))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._values = values
        return SetParametersResult(successful=True)


def set_period(timer: Timer, seconds: float) -> None:
    """Let a timer run every so many seconds from now on; 0 stops it."""
    if seconds == 0:
        timer.cancel()
    elif timer.is_canceled() or timer.timer_period_ns != round(seconds * _NANO):
        timer.timer_period_ns = round(seconds * _NANO)
        timer.reset()
