"""``python -m chorus_ros.demo``: the real node, a player and a questioner, on the sequence that the repository ships.

Three processes: ``perception_node``, ``player_node`` and this one, which watches the map grow, asks it questions and
draws what the node saved.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import rclpy
from chorus_msgs.msg import MapStatus
from chorus_msgs.srv import Query
from rclpy.node import Node
from rich.console import Console
from rich.table import Table
from std_srvs.srv import Trigger
from tqdm import tqdm

from chorus_core.io.map_file import move_map
from chorus_core.map_pictures import draw_map
from chorus_core.saved_map import open_saved_map

ROOT = Path(__file__).resolve().parents[1]
SEQUENCE = ROOT / "data" / "house_drive" / "bag"
PARAMETERS = ROOT / "config" / "demo.yaml"
QUERIES = (
    "refrigerator",
    "sofa",
    "something to sit on",
    "a place to sleep",
    "a picture on the wall",
    "it keeps food cold",
    "exercise ball",
    "elephant",
)
"""The last one is for a thing that is not there."""

_START_SECONDS = 60.0
_SETTLE_SECONDS = 60.0


@dataclass
class Answer:
    """What the node said to one text."""

    text: str
    objects: int
    best_score: float
    best_center: tuple[float, float, float] | None
    gaussians: int
    round_trip_ms: float
    node_ms: float


class Questioner(Node):
    """Watches the status and calls the services."""

    def __init__(self) -> None:
        super().__init__("chorus_demo")
        self.status = MapStatus()
        self.create_subscription(MapStatus, "chorus/status", self._on_status, 10)
        self.query = self.create_client(Query, "chorus/query")
        self.save = self.create_client(Trigger, "chorus/save_map")

    def _on_status(self, message: MapStatus) -> None:
        self.status = message

    def call(self, client, request, timeout: float = 60.0):
        """The response of a service, or an error that names it."""
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self, future, timeout_sec=timeout)
        if not future.done():
            raise TimeoutError(f"{client.srv_name} did not answer within {timeout:.0f} s")
        return future.result()

    def ask(self, text: str) -> Answer:
        began = time.perf_counter()
        response = self.call(self.query, Query.Request(text=text))
        elapsed = 1e3 * (time.perf_counter() - began)
        if not response.success:
            raise RuntimeError(f"query {text!r} failed: {response.message}")
        best = response.objects[0] if response.objects else None
        center = None if best is None else (best.centroid.x, best.centroid.y, best.centroid.z)
        return Answer(
            text, len(response.objects), best.score if best else 0.0, center,
            sum(o.gaussians for o in response.objects), elapsed, 1e3 * response.seconds,
        )  # fmt: skip


@contextmanager
def child(name: str, arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen]:
    """A Python module as a process of its own, ended when the block is left."""
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(2)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    print(f"{name} did not end on its own; see {log}", file=sys.stderr)


def watch(questioner: Questioner, node: subprocess.Popen, player: subprocess.Popen, frames: int) -> None:
    """Show progress until the player is through and the node has encoded what it saw."""
    settled_since, encodes = None, 0
    with tqdm(total=frames, unit="frame", desc="mapping", disable=None) as bar:
        while True:
            rclpy.spin_once(questioner, timeout_sec=0.2)
            if node.poll() is not None:
                raise RuntimeError("the perception node ended early")
            status = questioner.status
            bar.update(status.frames - bar.n)
            bar.set_postfix_str(f"{status.gaussians} Gaussians, {status.encodes} encodes")
            if player.poll() is None:
                continue
            if player.returncode:
                raise RuntimeError("the player failed")
            now = time.monotonic()
            if settled_since is None or status.encodes != encodes:
                settled_since, encodes = now, status.encodes
            # What is not encoded yet is on its way, unless it was carved since; a busy machine takes its time.
            patience = 3.0 if status.encoded > 0.999 else 10.0
            quiet = max(4.0, patience * status.last_encode_seconds)
            if status.encodes and now - settled_since > quiet:
                return
            if now - settled_since > _SETTLE_SECONDS:
                raise TimeoutError(f"no encode finished in {_SETTLE_SECONDS:.0f} s")


def wait_ready(questioner: Questioner, node: subprocess.Popen) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not questioner.query.wait_for_service(timeout_sec=0.5):
        if node.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the perception node did not come up")


def show(answers: Sequence[Answer]) -> None:
    table = Table("query", "found", "best score", "best at x y z (m)", "Gaussians", "time (ms)", title="/chorus/query")
    for a in answers:
        where = " ".join(f"{v:.1f}" for v in a.best_center) if a.best_center else "-"
        found = str(a.objects) if a.objects else "nothing"
        table.add_row(a.text, found, f"{a.best_score:.2f}", where, str(a.gaussians), f"{a.round_trip_ms:.0f}")
    Console().print(table)


def run(
    sequence: Path, parameters: Path, out: Path, rate: float, queries: Sequence[str], player_options: Sequence[str] = ()
) -> None:
    """Play, ask, draw; everything lands in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    frames = _count_frames(sequence)
    node_command = [
        "chorus_ros.perception_node", "--ros-args", "--params-file", str(parameters),
        "-p", f"publish.map_folder:={out / 'maps'}",
    ]  # fmt: skip
    rclpy.init()
    questioner = Questioner()
    try:
        with child("perception_node", node_command, out / "node.log") as node:
            wait_ready(questioner, node)
            player_command = ["chorus_ros.player_node", str(sequence), "--rate", str(rate), *player_options]
            with child("player_node", player_command, out / "player.log") as player:
                watch(questioner, node, player, frames)
            answers = [questioner.ask(text) for text in queries]
            saved = questioner.call(questioner.save, Trigger.Request())
            if not saved.success:
                raise RuntimeError(f"save_map failed: {saved.message}")
            status = questioner.status
    finally:
        questioner.destroy_node()
        rclpy.shutdown()
    show(answers)
    map_path = move_map(saved.message, out / "map.ply")
    shown = open_saved_map(map_path)
    pictures = draw_map(shown.labelled, shown.text, queries, out)
    summary = {
        "sequence": sequence.name,
        "frames": status.frames,
        "frames_integrated": status.integrated,
        "gaussians": status.gaussians,
        "encodes": status.encodes,
        "dropped": dict(zip(status.drop_causes, (int(c) for c in status.drop_counts), strict=True)),
        "stage_ms": {
            name: {"p50": round(p50, 2), "p99": round(p99, 2)}
            for name, p50, p99 in zip(status.stages, status.stage_p50_ms, status.stage_p99_ms, strict=True)
        },
        "answers": [asdict(a) for a in answers],
        "seconds": round(time.perf_counter() - began, 1),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"{len(pictures)} pictures, map.ply and summary.json in {out} after {summary['seconds']:.0f} s")


def _count_frames(sequence: Path) -> int:
    from chorus_core.io.rgbd import open_sequence

    return len(open_sequence(sequence))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequence", type=Path, default=SEQUENCE, help="rosbag2 or RGB-D folder to play")
    parser.add_argument("--params", type=Path, default=PARAMETERS, help="parameters of the node")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "demo")
    parser.add_argument("--rate", type=float, default=1.0, help="speed of the player")
    parser.add_argument("--query", action="append", help="ask this instead (may be repeated)")
    parser.add_argument("--upright", action="store_true", help="find the vertical of a hand-held recording first")
    parsed = parser.parse_args(arguments)
    # A domain of its own keeps the demo apart from a robot on the same network.
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        player_options = ("--compressed", *(["--upright"] if parsed.upright else []))
        queries = tuple(parsed.query or QUERIES)
        run(parsed.sequence, parsed.params, parsed.out.resolve(), parsed.rate, queries, player_options)
    except (RuntimeError, TimeoutError, ValueError) as error:
        print(f"demo: {error}; logs are in {parsed.out}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
