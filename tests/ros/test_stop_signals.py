"""SIGINT and SIGTERM at every point of a program's life, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness import ENVIRONMENT, Process, command, until

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def run(script: str, number: signal.Signals, times: int = 1) -> tuple[int, str, str]:
    """Run a script, signal it when it says "now", and return status, output and errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        for _ in range(times):
            process.send_signal(number)
        output, errors = process.communicate(timeout=30.0)
        return process.returncode, output, errors
    finally:
        process.kill()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("node", ["perception_node", "player_node"])
def test_while_modules_are_imported(node: str, number: signal.Signals) -> None:
    """Held up at the first heavy one, in the way of an import that takes long."""
    script = f"""
        import sys, time

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name in ("torch", "cv2"):
                    print("now", flush=True)
                    time.sleep(30)

        from chorus_ros.{node} import main
        sys.meta_path.insert(0, Slow())
        main([])
    """
    assert run(script, number) == (0, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_while_starting(number: signal.Signals) -> None:
    script = """
        import time
        from chorus_ros.stop_signals import Stopped, StopSignals
        signals = StopSignals()
        try:
            with signals.raising():
                print("now", flush=True)
                time.sleep(30)
        except Stopped:
            print("cleaned up")
        signals.ignore()
    """
    assert run(script, number, times=3) == (0, "cleaned up\n", "")


def test_signal_that_could_not_be_raised_is_raised_at_the_end_of_the_block() -> None:
    script = """
        import time
        from chorus_ros.stop_signals import Stopped, StopSignals
        signals = StopSignals()
        try:
            with signals.raising():
                try:
                    print("now", flush=True)
                    time.sleep(30)
                except BaseException:
                    pass  # as a finalizer would
                print("went on")
        except Stopped:
            print("stopped")
    """
    assert run(script, signal.SIGTERM) == (0, "went on\nstopped\n", "")


def test_flag_and_nothing_else_while_running_and_nothing_at_all_after() -> None:
    script = """
        import os, signal, time
        from chorus_ros.stop_signals import StopSignals
        signals = StopSignals()
        print("now", flush=True)
        while not signals.stopped:
            time.sleep(0.01)
        signals.ignore()
        os.kill(os.getpid(), signal.SIGTERM)
        print("alive")
    """
    assert run(script, signal.SIGTERM, times=3) == (0, "alive\n", "")


@pytest.mark.parametrize("times", [1, 1000])
def test_any_number_of_them_ends_the_node_alike(times: int, checkpoint: Path, tmp_path: Path) -> None:
    """One SIGTERM, or one every 20 ms until the process is gone."""
    process = Process(command("chorus_ros.perception_node", **{"encoder.checkpoint": checkpoint}), tmp_path / "log.txt")
    try:
        until(lambda: "ready: " in process.text() or not process.running(), 90.0, process.text)
        assert process.signal_until_gone(signal.SIGTERM, times) == 0, process.text()
        assert "Traceback" not in process.text()
    finally:
        process.end()
