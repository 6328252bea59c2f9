"""The executor beside callbacks that keep the interpreter busy."""

from __future__ import annotations

import threading
import time
from functools import partial

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from chorus_ros.executor import PromptExecutor


class Counting(PromptExecutor):
    """Counts the callbacks that it finds."""

    found = 0

    def wait_for_ready_callbacks(self, *args, **kwargs):
        ready = super().wait_for_ready_callbacks(*args, **kwargs)
        self.found += 1
        return ready


def work(seconds: float) -> None:
    """In Python, holding the interpreter's lock."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_a_callback_is_handed_out_once(lone_node: Node) -> None:
    ran = []
    for seconds in (0.0, 0.0, 0.0, 0.05):
        lone_node.create_timer(0.01, lambda s=seconds: (work(s), ran.append(s)), MutuallyExclusiveCallbackGroup())
    executor = Counting(4, context=lone_node.context)
    executor.add_node(lone_node)
    ending: Future[None] = Future()
    threading.Timer(2.0, ending.set_result, [None]).start()
    executor.spin_until_future_complete(ending)
    executor.shutdown()
    assert len(ran) > 50
    assert executor.found <= 1.2 * len(ran)


def test_callbacks_run_beside_each_other(lone_node: Node) -> None:
    """As many as there are threads: each waits for the other here."""
    meeting = threading.Barrier(2, timeout=10.0)
    ending: Future[None] = Future()
    timers = []

    def meet(number: int) -> None:
        timers[number].cancel()
        if meeting.wait() == 0:
            ending.set_result(None)

    for number in range(2):
        timers.append(lone_node.create_timer(0.1, partial(meet, number), MutuallyExclusiveCallbackGroup()))
    executor = PromptExecutor(2, context=lone_node.context)
    executor.add_node(lone_node)
    executor.spin_until_future_complete(ending, timeout_sec=20.0)
    assert ending.done()
    executor.shutdown()
