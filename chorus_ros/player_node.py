"""Plays a recording as ROS topics: a rosbag2 message by message, any other RGB-D sequence as camera, odometry and TF.

python -m chorus_ros.player_node PATH [--rate 1.0] [--compressed] [--clock] [--loop] [--wait 30]
"""

from __future__ import annotations

from collections.abc import Sequence

from chorus_ros.stop_signals import StopSignals


def main(args: Sequence[str] | None = None) -> None:
    """Play a recording once, or until SIGINT or SIGTERM."""
    signals = StopSignals()
    try:
        with signals.importing():
            from chorus_ros.player import run_player
        run_player(args, signals)
    finally:
        signals.ignore()


if __name__ == "__main__":
    main()
