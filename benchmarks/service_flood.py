"""``python -m benchmarks.service_flood``: how many of many clients that ask a running node at once get their answer.

Processes: the node, this one as its camera, and ``--processes`` with the clients, each client a node of its own that
asks one text. Frames keep coming, so that the node encodes meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import torch
from chorus_msgs.srv import Query
from rclpy.executors import SingleThreadedExecutor

from benchmarks.late_poses import Robot, connected_robot
from benchmarks.node_process import running_node, use_own_domain
from benchmarks.report import parser, publish

TIMEOUT = 120.0


def ask(first: int, clients: int) -> dict[str, Any]:
    """A client process: says "up", waits for a line, asks all at once; what was answered and after how many seconds."""
    rclpy.init()
    executor = SingleThreadedExecutor()
    nodes = [rclpy.create_node(f"client_{first + i}") for i in range(clients)]
    asking = [node.create_client(Query, "chorus/query") for node in nodes]
    for node in nodes:
        executor.add_node(node)
    for client in asking:
        client.wait_for_service(TIMEOUT)
    print("up", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    texts = [f"thing number {first + i}" for i in range(clients)]
    waiting = {i: client.call_async(Query.Request(text=texts[i])) for i, client in enumerate(asking)}
    seconds, wrong = [], 0
    while waiting and time.monotonic() - began < TIMEOUT:
        executor.spin_once(timeout_sec=0.1)
        for i in [i for i, future in waiting.items() if future.done()]:
            answer = waiting.pop(i).result()
            wrong += not answer.success or answer.text != texts[i]
            seconds.append(time.monotonic() - began)
    return {"seconds": seconds, "wrong": wrong}


def flood(clients: int, processes: int) -> dict[str, Any]:
    """A row: all clients, spread over some processes, ask at the same time."""
    shares = np.diff(np.linspace(0, clients, processes + 1).astype(int))
    commands = [
        [sys.executable, "-m", "benchmarks.service_flood", "--ask", str(first), str(share)]
        for first, share in zip(np.cumsum(shares) - shares, shares, strict=True)
    ]
    asking = [subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for c in commands]
    for process in asking:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
    time.sleep(2.0)  # discovery goes both ways
    for process in asking:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate(timeout=2 * TIMEOUT)[0].splitlines()[-1]) for process in asking]
    seconds = np.array([s for answer in answers for s in answer["seconds"]])
    return {
        "clients": clients,
        "processes": processes,
        "answered": len(seconds),
        "of those wrong": sum(answer["wrong"] for answer in answers),
        "first (s)": float(seconds.min()) if len(seconds) else None,
        "last (s)": float(seconds.max()) if len(seconds) else None,
    }


class Camera:
    """A robot in a room whose frames come while the block runs."""

    def __init__(self, robot: Robot, rate: float) -> None:
        self._robot, self._period = robot, 1 / rate
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._period):
            stamp = time.time_ns()
            self._robot.send_pose(stamp)
            self._robot.send_frame(stamp)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--clients", type=int, nargs="+", default=[30, 200])
    options.add_argument("--processes", type=int, default=4)
    options.add_argument("--ask", type=int, nargs=2, metavar=("FIRST", "CLIENTS"), help="be a process of clients")
    parsed = options.parse_args(arguments)
    use_own_domain()
    if parsed.ask:
        print(json.dumps(ask(*parsed.ask)))
        return 0
    rclpy.init()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_node(Path(folder) / "node.log", **{"map.voxel_size": 0.05}),
        connected_robot() as robot,
        Camera(robot, rate=2.0),
    ):
        while not robot.status.encodes:
            time.sleep(0.2)
        rows = [flood(clients, parsed.processes) for clients in parsed.clients]
        encodes = int(robot.status.encodes)
    publish("clients that ask at once", rows, torch.device("cpu"), parsed.out, encodes=encodes)
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
