"""The perception node as a process of its own, for benchmarks that talk to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DOMAIN = int(os.environ.get("ROS_DOMAIN_ID", 1 + os.getpid() % 100))


def use_own_domain() -> None:
    """Keep the benchmark apart from a robot on the same network; call it before rclpy is initialised."""
    os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@contextmanager
def running_node(log: Path, **parameters: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A node that says ready; ended when the block is left. Its output is in ``log``."""
    ros = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "chorus_ros.perception_node", "--ros-args", *ros]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120.0
        while "ready: " not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node did not come up; see {log}")
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
