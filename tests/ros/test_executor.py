"""The executor beside callbacks that keep the interpreter busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from chorus_ros.executor import PromptExecutor


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.context.Context()
    rclpy.init(context=context, domain_id=99)
    node = rclpy.create_node("busy", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


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


def test_a_callback_is_handed_out_once(node: Node) -> None:
    ran = []
    for seconds in (0.0, 0.0, 0.0, 0.05):
        node.create_timer(0.01, lambda s=seconds: (work(s), ran.append(s)), MutuallyExclusiveCallbackGroup())
    executor = Counting(4, context=node.context)
    executor.add_node(node)
    ending: Future[None] = Future()
    threading.Timer(2.0, ending.set_result, [None]).start()
    executor.spin_until_future_complete(ending)
    executor.shutdown()
    assert len(ran) > 50
    assert executor.found <= 1.2 * len(ran)


def test_callbacks_run_beside_each_other(node: Node) -> None:
    """As many as there are threads: each waits for the other here."""
    meeting = threading.Barrier(2, timeout=10.0)
    ending: Future[None] = Future()
    timers = []

    def meet(number: int) -> None:
        timers[number].cancel()
        if meeting.wait() == 0:
            ending.set_result(None)

    for number in range(2):
        timers.append(node.create_timer(0.1, partial(meet, number), MutuallyExclusiveCallbackGroup()))
    executor = PromptExecutor(2, context=node.context)
    executor.add_node(node)
    executor.spin_until_future_complete(ending, timeout_sec=20.0)
    assert ending.done()
    executor.shutdown()
