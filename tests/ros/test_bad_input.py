"""Everything that can be wrong with the input of a running node, one thing at a time.

Each case: what is bad gets counted under its cause (or, where it says nothing, adds nothing), the log names it, the
map's file is the same byte for byte, and the next good frame is integrated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from chorus_msgs.srv import SetVocabulary
from harness import CAMERA, PARAMETERS, Client, Process, command, frame_messages, odometry_tf, render, static_tf, until
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from chorus_ros import conversions

PIXELS, MILLIMETRES, POSE = render(0)


class Feed:
    """Sends frames with stamps that go on, and knows the map as its file says it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stamp = 100.0

    def step(self, pose: np.ndarray = POSE) -> float:
        """The next stamp, whose pose was published."""
        self.stamp = round(self.stamp + 0.1, 6)
        self.client.tf.publish(odometry_tf(self.stamp, pose))
        return self.stamp

    def send(self, **fields: Any) -> None:
        """The next frame, good unless told otherwise."""
        self.client.send(**({"stamp": self.step()} | fields))

    def count(self) -> int:
        return self.client.status.integrated

    def drops(self, cause: str) -> int:
        return self.client.drops().get(cause, 0)

    def wait_for_frames(self, count: int) -> None:
        until(lambda: self.count() >= count, 30.0, lambda: f"{self.client.status} {count}")

    def good(self) -> None:
        """A good frame, which must be integrated."""
        count = self.count()
        self.send()
        self.wait_for_frames(count + 1)

    def map_file(self) -> bytes:
        answer = self.client.call(Trigger, "/chorus/save_map", Trigger.Request())
        assert answer.success, answer.message
        return Path(answer.message).read_bytes()


@pytest.fixture(scope="module")
def node(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("node")
    parameters = PARAMETERS | {
        "encoder.checkpoint": checkpoint,
        "encoder.min_gaussians": 10_000_000,  # never encoded: save_map writes the map itself
        "publish.map_folder": folder / "maps",
        "publish.status_period": 0.05,
        "sync.pose_wait": 0.6,
    }
    process = Process(command("chorus_ros.perception_node", **parameters), folder / "log.txt")
    yield process
    process.end()


@pytest.fixture(scope="module")
def fed(node: Process, client: Client) -> Feed:
    """After a first good frame."""
    until(lambda: "/chorus/status" in client.last or not node.running(), 90.0)
    assert node.running(), node.text()
    inputs = (client.color, client.depth, client.info, client.tf, client.tf_static)
    until(lambda: all(p.get_subscription_count() for p in inputs))
    client.tf_static.publish(static_tf())
    feed = Feed(client)
    for _ in range(3):
        feed.good()
    assert client.status.gaussians > 200
    return feed


@pytest.fixture
def feed(fed: Feed, node: Process) -> Iterator[Feed]:
    """Sees to it that the map is untouched by the test, and that the node goes on afterwards."""
    before, gaussians = fed.map_file(), fed.client.status.gaussians
    assert len(before) > 10_000
    yield fed
    assert node.running(), node.text()
    assert fed.map_file() == before
    assert fed.client.status.gaussians == gaussians
    fed.good()
    assert "Traceback" not in node.text()


def color(encoding: str = "rgb8", pixels: np.ndarray = PIXELS) -> Image:
    return conversions.image_message(Header(), pixels, encoding)


def depth(values: np.ndarray = MILLIMETRES, encoding: str = "16UC1") -> Image:
    return conversions.image_message(Header(), values, encoding)


def broken(message: Image, **fields: Any) -> Image:
    for name, value in fields.items():
        setattr(message, name, value)
    return message


REFUSED = {
    "unknown colour encoding": ({"color": color("yuv444")}, "bad_image", "encoding 'yuv444'"),
    "unknown depth encoding": ({"depth": depth(encoding="12UC7")}, "bad_image", "encoding '12UC7'"),
    "empty encoding": ({"color": color("")}, "bad_image", "encoding ''"),
    "colour for depth": ({"depth": color()}, "bad_image", "depth encoding 'rgb8'"),
    "depth for colour": ({"color": depth()}, "bad_image", "colour encoding '16UC1'"),
    "no pixels": ({"depth": broken(depth(), height=0, width=0)}, "bad_image", "image size 0x0"),
    "data cut short": ({"color": broken(color(), data=[1, 2, 3])}, "bad_image", "3 bytes of data"),
    "step too short": ({"depth": broken(depth(), step=7)}, "bad_image", "step 7"),
    "a size no memory holds": ({"color": broken(color(), height=2**32 - 1)}, "bad_image", "bytes of data"),
    "other shape of depth": ({"depth": depth(MILLIMETRES[:, :100])}, "bad_frame", "100x120"),
    "other shape of calibration": ({"width": 999}, "bad_frame", "999x120"),
    "K of zeros": ({"k": np.zeros(9)}, "bad_frame", "camera_info.k is all zeros"),
    "K of NaN": ({"k": np.full(9, np.nan), "p": np.zeros(12)}, "bad_frame", "intrinsics fx, fy, cx, cy"),
    "focal length below zero": ({"k": -CAMERA.matrix.reshape(-1), "p": np.zeros(12)}, "bad_frame", "intrinsics fx"),
}
"""What cannot be used: fields of a frame, the cause counted, what the log says."""


@pytest.mark.parametrize("case", REFUSED)
def test_bad_frame_is_counted_and_named(feed: Feed, node: Process, case: str) -> None:
    fields, cause, words = REFUSED[case]
    # The log has one reason a cause every few seconds, so each reason is looked at here.
    with pytest.raises(ValueError, match=re.escape(words)):
        conversions.rgbd_frame(*frame_messages(1.0, **fields), POSE)
    frames, dropped = feed.count(), feed.drops(cause)
    feed.send(**fields)
    until(lambda: feed.drops(cause) == dropped + 1, explain=lambda: (feed.client.status, node.text()))
    assert feed.count() == frames
    assert f"dropped ({cause}): " in node.text()


NOTHING = {
    "zero": depth(np.zeros_like(MILLIMETRES)),
    "saturated": depth(np.full_like(MILLIMETRES, 65535)),
    "beyond the range": depth(np.full_like(MILLIMETRES, 65534)),
    **{
        name: depth(np.full(MILLIMETRES.shape, value, np.float32), "32FC1")
        for name, value in (("NaN", np.nan), ("inf", np.inf), ("-inf", -np.inf), ("negative", -1.0), ("huge", 3e38))
    },
}
"""Depth images without a measurement: no error, but nothing to learn from either."""


@pytest.mark.parametrize("case", NOTHING)
def test_depth_without_a_measurement_changes_nothing(feed: Feed, case: str) -> None:
    frames = feed.count()
    feed.send(depth=NOTHING[case])
    feed.wait_for_frames(frames + 1)


def test_missing_pose(feed: Feed) -> None:
    dropped = feed.drops("no_pose")
    feed.stamp += 0.1
    feed.client.send(feed.stamp)  # its pose is never sent: nothing newer comes for as long as it waits
    until(lambda: feed.drops("no_pose") == dropped + 1)


@pytest.mark.parametrize("frame", ["", "some_other_camera"])
def test_frame_id_without_a_transform(feed: Feed, frame: str) -> None:
    dropped = feed.drops("no_pose")
    feed.send(frame_id=frame)
    until(lambda: feed.drops("no_pose") == dropped + 1)


def _with(**numbers: float) -> Callable[[TFMessage], None]:
    def change(message: TFMessage) -> None:
        transform = message.transforms[0].transform
        for name, value in numbers.items():
            setattr(transform.translation if name in "xyz" else transform.rotation, name[-1], value)

    return change


BAD_POSES = {
    "NaN position": _with(x=float("nan")),
    "infinite position": _with(z=float("inf")),
    "quaternion of zeros": _with(qx=0.0, qy=0.0, qz=0.0, qw=0.0),
    "quaternion of NaN": _with(qw=float("nan")),
}


@pytest.mark.parametrize("case", BAD_POSES)
def test_bad_pose(feed: Feed, node: Process, case: str) -> None:
    dropped, without = feed.drops("bad_pose"), feed.drops("no_pose")
    feed.stamp += 0.1
    message = odometry_tf(feed.stamp, POSE)
    BAD_POSES[case](message)
    feed.client.tf.publish(message)
    until(lambda: feed.drops("bad_pose") == dropped + 1)
    assert "dropped (bad_pose): " in node.text()
    feed.client.send(feed.stamp)
    until(lambda: feed.drops("no_pose") == without + 1)


@pytest.mark.parametrize("metres", [1e6, 1e30])
def test_pose_beyond_reach(feed: Feed, metres: float) -> None:
    """Finite, yet so far away that positions in float32 mean nothing."""
    far = POSE.copy()
    far[:3, 3] = metres
    dropped = feed.drops("bad_frame")
    feed.client.send(feed.step(far))
    until(lambda: feed.drops("bad_frame") == dropped + 1)


@pytest.mark.parametrize("stamp", [Time(sec=-5), Time(sec=1, nanosec=2_000_000_000)])
def test_impossible_stamp(feed: Feed, node: Process, stamp: Time) -> None:
    causes = ("bad_color", "bad_depth", "bad_info")
    before = [feed.drops(c) for c in causes]
    feed.send(stamp=stamp)
    until(lambda: [feed.drops(c) for c in causes] == [n + 1 for n in before])
    assert all(f"dropped ({cause}): stamp" in node.text() for cause in causes)


def test_stamp_slightly_back_or_repeated(feed: Feed) -> None:
    late, repeated = feed.drops("late_depth"), feed.drops("duplicate_depth")
    frames = feed.count()
    feed.client.send(feed.stamp - 0.05)
    feed.client.send(feed.stamp)
    until(lambda: feed.drops("late_depth") == late + 1 and feed.drops("duplicate_depth") == repeated + 1)
    assert feed.count() == frames


def test_time_set_back_keeps_the_map(feed: Feed, node: Process) -> None:
    """A bag that starts again: said so, the map stays, and (as after every test) good frames are integrated."""
    feed.stamp = 10.0
    feed.client.send(feed.stamp)  # without a pose: it must go too
    without = feed.drops("no_pose")
    until(lambda: feed.drops("no_pose") == without + 1)
    assert "time_jump" in feed.client.drops()
    assert "stamps went back" in node.text()


BAD_TEXTS = {
    "empty": ("", "empty"),
    "blank": (" \t ", "empty"),
    "10,000 characters": ("a" * 10_000, "10000 characters"),
    "control character": ("chair\x07", "U+0007"),
    "line break": ("chair\nsofa", "U+000A"),
    "escape sequence": ("\x1b[2Jchair", "U+001B"),
}


@pytest.mark.parametrize("place", ["text", "negatives"])
@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_query_is_refused_with_a_reason(feed: Feed, case: str, place: str) -> None:
    text, reason = BAD_TEXTS[case]
    answer = feed.client.query(text) if place == "text" else feed.client.query("chair", negatives=["sofa", text])
    assert not answer.success
    assert reason in answer.message
    assert "expected" in answer.message
    assert not answer.objects
    assert answer.points.width == 0


def test_too_many_negatives_are_refused(feed: Feed) -> None:
    answer = feed.client.query("chair", negatives=["sofa"] * 33)
    assert not answer.success
    assert answer.message == "33 negatives: expected at most 32"


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -1.0, 2.0])
def test_bad_threshold_is_refused(feed: Feed, threshold: float) -> None:
    answer = feed.client.query("chair", threshold=threshold)
    assert not answer.success
    assert "threshold" in answer.message


def test_query_before_anything_is_encoded_says_so(feed: Feed) -> None:
    """Which is not the same as an answer of "nothing"."""
    answer = feed.client.query("chair; rm -rf / $(reboot) ../../etc/passwd {0.__class__} %s")
    assert not answer.success
    assert "encoded yet" in answer.message


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_label_is_refused(feed: Feed, case: str) -> None:
    text, _ = BAD_TEXTS[case]
    request = SetVocabulary.Request(labels=["chair", text])
    answer = feed.client.call(SetVocabulary, "/chorus/set_vocabulary", request)
    assert not answer.success
    assert "expected" in answer.message
