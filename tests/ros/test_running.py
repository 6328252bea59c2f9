"""Ways out of a running node."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from rclpy.node import Node

from chorus_ros.executor import PromptExecutor
from chorus_ros.running import spin_until_stopped
from chorus_ros.stop_signals import StopSignals


@pytest.fixture
def node(lone_node: Node) -> Iterator[Node]:
    """It, with the handlers of signals put back after the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lone_node
    for number, handler in handlers.items():
        signal.signal(number, handler)


def spin(node: Node, stopping: Callable[[], object] = lambda: None) -> None:
    executor = PromptExecutor(2, context=node.context)
    executor.add_node(node)
    spin_until_stopped(executor, StopSignals(), stopping)


def later(action: Callable[[], object], seconds: float = 0.3) -> None:
    threading.Timer(seconds, action).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_however_many_there_are(node: Node, number: signal.Signals) -> None:
    for seconds in (0.3, 0.31, 0.35, 0.4):
        later(lambda: os.kill(os.getpid(), number), seconds)
    began = time.monotonic()
    spin(node)
    assert time.monotonic() - began < 5.0
    assert node.context.ok()  # it is the caller who shuts down, after cleaning up
    time.sleep(0.3)  # the late ones, which must do no harm either


def test_running_callback_is_waited_for(node: Node) -> None:
    ran = []

    def slow() -> None:
        timer.cancel()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        ran.append(node.context.ok())

    timer = node.create_timer(0.05, slow)
    spin(node)
    assert ran == [True]


def test_running_callback_is_told_to_give_up(node: Node) -> None:
    """One that would take a minute ends when the node does."""
    told = threading.Event()
    gave_up = []

    def slow() -> None:
        timer.cancel()
        os.kill(os.getpid(), signal.SIGTERM)
        gave_up.append(told.wait(60.0))

    timer = node.create_timer(0.05, slow)
    began = time.monotonic()
    spin(node, told.set)
    assert gave_up == [True]
    assert time.monotonic() - began < 10.0


def test_context_that_others_shut_down_ends_it(node: Node) -> None:
    later(node.context.try_shutdown)
    spin(node)


def test_error_of_a_callback_comes_out(node: Node) -> None:
    def fail() -> None:
        raise ValueError("of the callback")

    node.create_timer(0.05, fail)
    with pytest.raises(ValueError, match="of the callback"):
        spin(node)
