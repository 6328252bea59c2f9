"""Running a node until it is told to end, and ending it in an order that is safe."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from types import FrameType

from rclpy.executors import Executor
from rclpy.task import Future

_LOOK_PERIOD = 0.1  # seconds between looks at whether a signal came


def spin_until_stopped(executor: Executor, stopping: Callable[[], object] = lambda: None) -> None:
    """Run callbacks until SIGINT or SIGTERM, or until the context is shut down; return once none runs any more.

    For ``rclpy.init(signal_handler_options=SignalHandlerOptions.NO)``: rclpy's own handlers shut the context down
    under callbacks that still run, and its KeyboardInterrupt may hit the very code that cleans up (a second SIGINT,
    as Ctrl-C under ``ros2 launch`` sends, does): threads then go on while their node is destroyed. Here the context
    stays valid until no callback runs, and a signal only sets a flag, however often it comes. The handlers stay
    installed, so that what the caller cleans up afterwards is not interrupted either.

    Call it from the main thread. What a callback raises comes out here.

    Args:
        executor: runs the callbacks.
        stopping: called once when it is to end, before running callbacks are waited for: it may tell them to give up.
    """
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True  # nothing more: a handler that takes a lock can meet the thread that holds it

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    ending: Future[None] = Future()
    # Signals do not wake a main thread that waits for messages in C; one that looks up now and then sees the flag.
    with ThreadPoolExecutor(1, thread_name_prefix="spin") as pool:
        spinning = pool.submit(executor.spin_until_future_complete, ending)
        try:
            while not stopped and not spinning.done():
                wait([spinning], _LOOK_PERIOD)
        finally:
            stopping()
            ending.set_result(None)  # wakes the executor
    executor.shutdown()  # joins the threads that run callbacks
    spinning.result()
