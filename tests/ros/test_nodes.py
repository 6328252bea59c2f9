"""The real nodes as processes: a player sends a small room, the perception node maps it and answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chorus_msgs.msg import LabelInfo
from chorus_msgs.srv import SetVocabulary
from harness import ENVIRONMENT, FRAMES, PARAMETERS, Client, Process, command, odometry_tf, render, until
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from chorus_core.io.gaussian_ply import load_gaussians
from chorus_ros import conversions


@pytest.fixture(scope="module")
def node(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("node")
    parameters = PARAMETERS | {"publish.map_folder": folder / "maps", "encoder.checkpoint": checkpoint}
    process = Process(command("chorus_ros.perception_node", **parameters), folder / "log.txt")
    yield process
    process.end()


@pytest.fixture(scope="module")
def mapped(node: Process, client: Client, sequence: Path, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """The client once the node has mapped what the player sent and encoded it."""
    log = tmp_path_factory.mktemp("player") / "log.txt"
    until(lambda: "/chorus/status" in client.last or not node.running(), 90.0)
    assert node.running(), node.text()
    player = Process(command("chorus_ros.player_node", str(sequence), "--rate", "0.25"), log)
    try:
        assert player.wait(60.0) == 0, player.text()
        # All but the first two, which may pass before discovery is done.
        until(lambda: client.status.integrated >= FRAMES - 2, 30.0, lambda: client.status)
        until(lambda: client.status.encodes > 0, 60.0)
    finally:
        player.end()
    return client


def test_every_frame_is_mapped(mapped: Client) -> None:
    assert not {"overflow_frame", "no_pose"} & set(mapped.drops())
    assert mapped.status.frames == mapped.status.integrated
    assert mapped.status.gaussians > 200
    assert 0 < mapped.status.keyframes < FRAMES
    assert mapped.status.header.frame_id == "map"
    assert {"integrate"} <= set(mapped.status.stages)


def test_labels_are_latched(mapped: Client) -> None:
    info = mapped.last["/chorus/labels"]
    assert len(info.names) == len(info.ids) == len(info.colors) > 5


def test_whole_cloud_on_request(mapped: Client) -> None:
    mapped.last.pop("/chorus/semantic_cloud", None)
    answer = mapped.call(Trigger, "/chorus/publish_map", Trigger.Request())
    assert answer.success, answer.message
    until(lambda: "/chorus/semantic_cloud" in mapped.last)
    cloud = mapped.last["/chorus/semantic_cloud"]
    assert cloud.header.frame_id == "map"
    points = np.frombuffer(bytes(cloud.data), conversions.CLOUD_DTYPE)
    assert len(points) == cloud.width > 200
    xyz = np.stack([points[a] for a in "xyz"], axis=1)
    wall_distance = np.abs(np.abs(xyz - (0, 0, 1.25)) - (2.0, 1.5, 1.25)).min(axis=1)
    assert np.median(wall_distance) < 0.03  # the points lie on the walls of the room
    known = set(mapped.last["/chorus/labels"].ids) | {LabelInfo.NONE}
    assert set(points["label"].tolist()) <= known


def test_objects_and_diagnostics_are_published(mapped: Client) -> None:
    until(lambda: "/chorus/objects" in mapped.last)
    until(lambda: "/diagnostics" in mapped.last)
    names = {s.name for s in mapped.last["/diagnostics"].status}
    assert {"/perception_node: color", "/perception_node: drops", "/perception_node: map"} <= names


def test_query(mapped: Client) -> None:
    answer = mapped.query("a wall")
    assert answer.success, answer.message
    assert answer.points.header.frame_id == "map"
    assert answer.points.point_step == conversions.CLOUD_DTYPE.itemsize
    assert 0 < answer.seconds < 30
    assert conversions.nanoseconds(answer.map_stamp) == pytest.approx((FRAMES - 1) / 30 * 1e9, abs=1e6)
    for item in answer.objects:
        assert item.label == "a wall"
        assert item.gaussians > 0
    until(lambda: "/chorus/query_cloud" in mapped.last)


def test_the_example_of_a_client(mapped: Client, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repository / "examples" / "query_client.py"), "a wall"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"map {mapped.status.map_id}: ")
    refused = subprocess.run(
        [sys.executable, str(repository / "examples" / "query_client.py"), " "],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert (refused.returncode, refused.stderr) == (1, "query text is empty: expected a few words\n")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("   ", {}),
        ("chair" * 2000, {}),
        ("chair\x07", {}),
        ("chair", {"threshold": float("nan")}),
        ("\u200b", {}),
    ],
)
def test_bad_queries_are_refused(mapped: Client, node: Process, text: str, fields: dict[str, Any]) -> None:
    answer = mapped.query(text, **fields)
    assert not answer.success
    assert "expected" in answer.message
    assert not answer.objects
    assert node.running()


def test_bad_negative_is_named(mapped: Client) -> None:
    answer = mapped.query("chair", negatives=["sofa", ""])
    assert not answer.success
    assert answer.message == "negative text 1 is empty: expected a few words"


def test_text_of_a_query_is_data(mapped: Client) -> None:
    answer = mapped.query("chair; rm -rf / $(reboot) ../../etc/passwd {0.__class__} %s", negatives=["sofa"] * 32)
    assert answer.success, answer.message


def test_set_vocabulary(mapped: Client) -> None:
    def set_to(**fields: Any) -> SetVocabulary.Response:
        return mapped.call(SetVocabulary, "/chorus/set_vocabulary", SetVocabulary.Request(**fields))

    answer = set_to(labels=["red wall", "green wall"])
    assert answer.success, answer.message
    assert list(answer.vocabulary.names) == ["red wall", "green wall"]
    until(lambda: list(mapped.last["/chorus/labels"].names) == ["red wall", "green wall"])
    both = {"labels": ["a"], "name": "b"}
    for refused in ({"labels": ["a", "a"]}, {"labels": [""]}, {"name": "/etc/hostname"}, {}, both):
        answer = set_to(**refused)
        assert not answer.success
        assert "expected" in answer.message
        assert list(answer.vocabulary.names) == ["red wall", "green wall"]


def test_bad_frames_are_counted_and_the_map_stays(mapped: Client, node: Process) -> None:
    """One bad frame of each kind. Their stamps lie within the poses the player sent; TF is repeated for them."""
    pixels, millimetres, pose = render(0)
    empty = Header()
    before, integrated, gaussians = mapped.drops(), mapped.status.integrated, mapped.status.gaussians
    start = (FRAMES - 1) / 30
    for stamp in (start, start + 2.0):
        mapped.tf.publish(odometry_tf(stamp, pose))
    bad = (
        {"color": conversions.image_message(empty, pixels, "yuv444")},
        {"depth": conversions.image_message(empty, millimetres[:, :100], "16UC1")},
        {"k": np.zeros(9)},
        {"k": np.full(9, np.nan), "p": np.zeros(12)},
        {"depth": conversions.image_message(empty, pixels, "rgb8")},
    )
    for number, fields in enumerate(bad):
        mapped.send(start + 0.1 * (number + 1), **fields)
        time.sleep(0.1)

    def dropped() -> int:
        after = mapped.drops()
        return sum(after.get(c, 0) - before.get(c, 0) for c in ("bad_image", "bad_frame"))

    until(lambda: dropped() >= len(bad))
    # Frames without one measured depth are no error: they add nothing.
    nothing = (np.zeros_like(millimetres), np.full_like(millimetres, 65535))
    for number, values in enumerate(nothing):
        mapped.send(start + 1.0 + 0.1 * number, depth=conversions.image_message(empty, values, "16UC1"))
    not_a_number = np.full(millimetres.shape, np.nan, np.float32)
    mapped.send(start + 1.3, depth=conversions.image_message(empty, not_a_number, "32FC1"))
    until(lambda: mapped.status.integrated >= integrated + 3)
    assert dropped() == len(bad)
    assert mapped.status.gaussians == gaussians
    assert node.running()


def test_frame_without_a_pose(mapped: Client, node: Process) -> None:
    before = mapped.drops().get("no_pose", 0)
    mapped.send(3000.0)
    until(lambda: mapped.drops().get("no_pose", 0) == before + 1)
    assert node.running()


def test_time_set_back(mapped: Client, node: Process) -> None:
    """A bag that starts again: counted, and mapping goes on."""
    _, _, pose = render(0)
    mapped.send(5000.0)
    time.sleep(0.2)
    integrated = mapped.status.integrated
    for stamp in (10.0, 10.2, 10.4, 10.6):
        mapped.tf.publish(odometry_tf(stamp, pose))
        mapped.send(stamp)
        time.sleep(0.2)
    until(lambda: mapped.status.integrated > integrated)
    assert "time_jump" in mapped.drops()
    assert node.running()


def test_save_map(mapped: Client) -> None:
    answer = mapped.call(Trigger, "/chorus/save_map", Trigger.Request())
    assert answer.success, answer.message
    assert Path(answer.message).is_absolute()  # the client's working directory is another one
    assert len(load_gaussians(answer.message)) > 200


def test_reset(mapped: Client) -> None:
    answer = mapped.call(Trigger, "/chorus/reset", Trigger.Request())
    assert answer.success, answer.message
    until(lambda: mapped.status.gaussians == 0 and mapped.status.integrated == 0)
    answer = mapped.query("a wall")
    assert not answer.success
    assert "encoded yet" in answer.message
    assert not answer.objects
    answer = mapped.call(Trigger, "/chorus/save_map", Trigger.Request())
    assert not answer.success
    assert answer.message == "the map is empty: nothing is saved"


def test_interrupt_ends_the_node_cleanly(mapped: Client, node: Process) -> None:
    """While it integrates and encodes, and twice, as with Ctrl-C under a launcher that passes it on."""
    _, _, pose = render(0)
    for number in range(20):
        stamp = 20.0 + 0.1 * number
        mapped.tf.publish(odometry_tf(stamp, pose))
        mapped.send(stamp)
    assert node.interrupt(times=3) == 0, node.text()
    assert "Traceback" not in node.text()


def cut_short(checkpoint: Path, folder: Path) -> Path:
    """A copy of a model whose weights end early."""
    model = Path(shutil.copytree(checkpoint, folder / "cut_short"))
    (weights,) = model.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    return model


def garbage(_: Path, folder: Path) -> Path:
    """A file that is no checkpoint."""
    path = folder / "garbage.pth"
    path.write_bytes(b"no checkpoint at all" * 100)
    return path


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("map.voxelsize", 0.05, "unknown parameter map.voxelsize; did you mean map.voxel_size"),
        ("topics.color", "my cam", "topics.color = 'my cam': expected the name of a topic"),
        ("publish.namespace", "a//b", "publish.namespace = 'a//b'"),
        ("qos_overrides./odom.subscription.depth", 99_999_999_999, "depth = 99999999999: expected"),
        ("encoder.checkpoint", "no/such/model", "no/such/model"),
        ("encoder.checkpoint", cut_short, "cut_short"),
        ("encoder.checkpoint", garbage, "garbage.pth"),
        ("publish.load_map", "no/such/map.ply", "no/such/map.ply"),
    ],
)
def test_bad_start_is_one_clear_line(name: str, value: Any, expected: str, checkpoint: Path, tmp_path: Path) -> None:
    value = value(checkpoint, tmp_path) if callable(value) else value
    parameters = {"encoder.checkpoint": checkpoint} | {name: value}
    process = Process(command("chorus_ros.perception_node", **parameters), tmp_path / "log.txt")
    try:
        assert process.wait(90.0) == 1
        (line,) = process.text().splitlines()
        assert line.startswith("perception_node")
        assert expected in line
    finally:
        process.end()


def test_player_refuses_what_is_no_recording(tmp_path: Path) -> None:
    process = Process(command("chorus_ros.player_node", str(tmp_path)), tmp_path / "log.txt")
    try:
        assert process.wait(60.0) != 0
        assert "unknown layout" in process.text()
        assert "Traceback" not in process.text()
    finally:
        process.end()
