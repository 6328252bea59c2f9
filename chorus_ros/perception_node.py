"""``python -m chorus_ros.perception_node``: runs the node until it is interrupted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import rclpy
from rclpy.executors import MultiThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from chorus_core.config import ConfigError
from chorus_ros.node import THREADS, PerceptionNode
from chorus_ros.spinning import spin_until_stopped


def main(args: Sequence[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)  # see spin_until_stopped
    node = None
    try:
        node = PerceptionNode()
        executor = MultiThreadedExecutor(num_threads=THREADS)
        executor.add_node(node)
        spin_until_stopped(executor, node.stop)
    except KeyboardInterrupt:  # while starting
        pass
    except ConfigError as error:
        sys.exit(f"perception_node: {error}")
    except (ValueError, OSError) as error:
        if node is not None:
            raise
        sys.exit(f"perception_node could not start: {' '.join(str(error).split())}")  # one line, whoever raised it
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
