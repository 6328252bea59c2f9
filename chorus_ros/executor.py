"""An executor of several threads that does not starve them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor


class PromptExecutor(MultiThreadedExecutor):
    """rclpy's executor, which waits until what it handed to a thread has begun.

    rclpy's own (up to Kilted; ros2/rclpy#1452) finds a callback again and again as long as no thread has begun with it,
    and hands it out each time: 6,000 times a second beside a camera of 30 Hz, which keeps the interpreter from the very
    threads that are to run it.

    Args:
        num_threads: that run callbacks. Where all of them are at work, nothing is looked for until one is free.
        context: of the nodes; rclpy's default one where none is given.
    """

    def __init__(self, num_threads: int, *, context: Context | None = None) -> None:
        super().__init__(num_threads, context=context)
        self._executor = _PromptPool(num_threads)


class _PromptPool(ThreadPoolExecutor):
    def submit(self, task: Callable[[], Any]) -> Future[Any]:  # type: ignore[override]
        """As of all pools; returns when a thread is at work on the task."""
        begun = threading.Event()

        def run() -> Any:
            begun.set()
            return task()

        future = super().submit(run)
        begun.wait()
        return future
