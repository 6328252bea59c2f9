"""``python -m chorus_ros.perception_node``: runs the node until SIGINT or SIGTERM.

Signals are looked after before anything heavy is imported, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from chorus_ros.stop_signals import StopSignals


def main(args: Sequence[str] | None = None) -> None:
    """Run the node; ``args`` are those of the command line without the program's name, ``sys.argv`` by default."""
    signals = StopSignals()
    try:
        with signals.importing():
            from chorus_ros.running import run_perception
        run_perception(args, signals)
    finally:
        signals.ignore()


if __name__ == "__main__":
    main()
