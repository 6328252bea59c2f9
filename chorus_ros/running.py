"""Running the node until it is told to end, and ending it in an order that is safe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import Executor
from rclpy.task import Future

from chorus_core.config import ConfigError
from chorus_ros.executor import PromptExecutor
from chorus_ros.node import THREADS, PerceptionNode
from chorus_ros.starting import init_ros
from chorus_ros.stop_signals import Stopped, StopSignals

_LOOK_PERIOD = 0.1  # seconds between looks at whether a signal came


def run_perception(args: Sequence[str] | None, signals: StopSignals) -> None:
    """Make the node, run it until it is stopped, clean up. What it cannot start with ends the process with one line."""
    init_ros(args, "perception_node")  # signals: see spin_until_stopped
    node = None
    try:
        with signals.raising():
            node = PerceptionNode()
        executor = PromptExecutor(THREADS)
        executor.add_node(node)
        spin_until_stopped(executor, signals, node.stop)
    except Stopped:  # while starting
        pass
    except ConfigError as error:
        sys.exit(f"perception_node: {error}")
    except (ValueError, OSError, NameValidationException) as error:
        if node is not None:
            raise
        sys.exit(f"perception_node could not start: {' '.join(str(error).split())}")  # one line, whoever raised it
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


def spin_until_stopped(executor: Executor, signals: StopSignals, stopping: Callable[[], object] = lambda: None) -> None:
    """Run callbacks until a signal came, or until the context is shut down; return once none runs any more.

    For ``rclpy.init(signal_handler_options=SignalHandlerOptions.NO)``: rclpy's own handlers shut the context down
    under callbacks that still run, and its KeyboardInterrupt may hit the very code that cleans up (a second SIGINT,
    as Ctrl-C under ``ros2 launch`` sends, does): threads then go on while their node is destroyed. Here the context
    stays valid until no callback runs.

    Call it from the main thread. What a callback raises comes out here.

    Args:
        executor: runs the callbacks.
        signals: tells whether to stop.
        stopping: called once when it is to end, before running callbacks are waited for: it may tell them to give up.
    """
    ending: Future[None] = Future()
    # Signals do not wake a main thread that waits for messages in C; one that looks up now and then sees the flag.
    with ThreadPoolExecutor(1, thread_name_prefix="spin") as pool:
        spinning = pool.submit(executor.spin_until_future_complete, ending)
        try:
            while not signals.stopped and not spinning.done():
                wait([spinning], _LOOK_PERIOD)
        finally:
            stopping()
            ending.set_result(None)  # wakes the executor
    executor.shutdown()  # joins the threads that run callbacks
    spinning.result()
