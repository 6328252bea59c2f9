"""A node that was killed, and started again with its saved map: the same map, the same answers, and it goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from chorus_msgs.srv import Query
from harness import PARAMETERS, Client, Process, command, odometry_tf, render, static_tf, until
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from chorus_ros import conversions

TEXTS = ("a wall", "chair", "something to sit on")


def test_a_killed_node_goes_on_with_its_saved_map(checkpoint: Path, client: Client, tmp_path: Path) -> None:
    parameters = PARAMETERS | {"publish.map_folder": tmp_path / "maps", "encoder.checkpoint": checkpoint}
    first = Process(command("chorus_ros.perception_node", **parameters), tmp_path / "first.txt")
    try:
        until(lambda: client.last.get("/chorus/status") and client.status.map_id, 90.0, first.text)
        feed(client, range(4), 1.0)
        until(lambda: client.status.encodes > 0 and client.status.encoded == 1.0, 60.0, lambda: client.status)
        before, answers = client.status, ask(client)
        saved = client.call(Trigger, "/chorus/save_map", Trigger.Request())
        assert saved.success, saved.message
        first.signal_until_gone(signal.SIGKILL, 1)
    finally:
        first.end()

    second = Process(
        command("chorus_ros.perception_node", **parameters | {"publish.load_map": saved.message}),
        tmp_path / "second.txt",
    )
    try:
        client.last.pop("/chorus/status", None)
        until(lambda: "/chorus/status" in client.last and client.status.gaussians > 0, 90.0, second.text)
        assert (client.status.map_id, client.status.gaussians) == (before.map_id, before.gaussians)
        assert client.status.integrated == 0
        assert ask(client) == answers, "without a camera"
        feed(client, range(3, 8), 1.0)
        until(lambda: client.status.integrated >= 4, 30.0, lambda: (client.status, second.text()))
        assert client.status.map_id == before.map_id
        assert client.status.gaussians > before.gaussians
        reset = client.call(Trigger, "/chorus/reset", Trigger.Request())
        assert reset.success
        until(lambda: client.status.map_id != before.map_id)
        assert second.interrupt() == 0, second.text()
    finally:
        second.end()


def feed(client: Client, numbers: range, start: float) -> None:
    client.tf_static.publish(static_tf())
    for number in numbers:
        pixels, millimetres, pose = render(3 * number)
        stamp = start + 0.1 * number
        client.tf.publish(odometry_tf(stamp, pose))
        client.send(
            stamp,
            color=conversions.image_message(Header(), pixels, "rgb8"),
            depth=conversions.image_message(Header(), millimetres, "16UC1"),
        )
        time.sleep(0.2)


def ask(client: Client) -> list[tuple[str, list[tuple[int, int, int, float]]]]:
    """All that must be the same: map, object numbers, sizes, first and last seen, places."""
    return [facts(client.query(text, threshold=0.05)) for text in TEXTS]


def facts(answer: Query.Response) -> tuple[str, list[tuple[int, int, int, float]]]:
    assert answer.success, answer.message
    return answer.map_id, [
        (item.id, item.gaussians, item.first_seen.sec, item.last_seen.nanosec, round(item.centroid.x, 4))
        for item in answer.objects
    ]
