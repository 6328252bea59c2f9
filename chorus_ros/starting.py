"""The first step of every program of the package. Imports nothing of the pipeline, which the player does without."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions


def init_ros(args: Sequence[str] | None, program: str) -> None:
    """Begin with ROS, which leaves signals alone. Arguments that ROS cannot use end the process with one line."""
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError: a remapping to no name, a parameter file that is none
        sys.exit(f"{program} could not start: {' '.join(str(error).split())}")
