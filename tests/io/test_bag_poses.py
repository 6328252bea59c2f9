"""Which of TF, odometry and poses tells where the camera is, and in which frame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chorus_core.io.bag_messages import PoseSample
from chorus_core.io.bag_poses import PoseSource, choose_pose_source
from chorus_core.io.bag_topics import ODOMETRY, POSE, BagOptions
from chorus_core.io.sequence import SequenceError
from chorus_core.io.transform_buffer import TransformBuffer

STAMPS = [0.1 * i for i in range(50)]
MOUNT = np.array([[0.0, 0, 1, 0.2], [-1, 0, 0, 0], [0, -1, 0, 1.1], [0, 0, 0, 1]])


def at(x: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


def tree(*edges: tuple[str, str, float | None]) -> TransformBuffer:
    """(parent, child, x): fixed there, or where x is None moving along x by a metre a second."""
    buffer = TransformBuffer(history=math.inf, max_gap=2.0)
    for parent, child, x in edges:
        for stamp in [0.0] if x is not None else STAMPS:
            buffer.set_transform(parent, child, stamp, at(stamp if x is None else x), static=x is not None)
    return buffer


def mounted(buffer: TransformBuffer | None = None) -> TransformBuffer:
    buffer = buffer or tree()
    buffer.set_transform("base", "camera", 0.0, MOUNT, static=True)
    return buffer


def samples(parent: str, child: str, stamps: list[float] = STAMPS, offset: float = 0.0) -> list[PoseSample]:
    return [PoseSample(parent, child, stamp, at(stamp + offset)) for stamp in stamps]


def choose(buffer: TransformBuffer, options: BagOptions | None = None, **topics: tuple[str, list]) -> PoseSource:
    poses = {f"/{name}": found for name, (_, found) in topics.items()}
    types = {f"/{name}": kind for name, (kind, _) in topics.items()}
    return choose_pose_source(buffer, poses, types, "camera", STAMPS, options or BagOptions())


def camera_at(source: PoseSource, stamp: float = 2.5) -> np.ndarray:
    return source.buffer.lookup(source.world_frame, "camera", stamp)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([("odom", "base", None)], "odom"),
        ([("map", "odom", 3.0), ("odom", "base", None)], "map"),
        ([("utm", "map", 5e5), ("map", "odom", None), ("odom", "base", None)], "map"),
        ([("earth", "robot1/map", 5e5), ("robot1/map", "base", None)], "robot1/map"),
        ([("utm", "world", 5e5), ("world", "base", None)], "world"),
        ([("world", "utm", 1.0), ("utm", "odom", None), ("odom", "base", None)], "utm"),
    ],
)
def test_world_frame(edges, expected):
    source = choose(mounted(tree(*edges)))
    assert (source.name, source.world_frame, source.coverage) == ("TF", expected, 1.0)
    assert abs(camera_at(source)[0, 3]) < 10
    told = choose(mounted(tree(*edges)), BagOptions(world_frame="base"))
    np.testing.assert_array_equal(camera_at(told), MOUNT)


def test_tf_comes_before_odometry_and_poses_that_know_as_much(caplog):
    buffer = mounted(tree(("map", "base", None)))
    source = choose(buffer, pose=(POSE, samples("map", "")), odom=(ODOMETRY, samples("odom", "base")))
    assert source.name == "TF"
    assert not caplog.records


def test_what_knows_more_images_goes_before(caplog):
    """TF lost the robot after a fifth of the way."""
    buffer = mounted()
    for stamp in STAMPS[:10]:
        buffer.set_transform("map", "base", stamp, at(stamp))
    source = choose(buffer, odom=(ODOMETRY, samples("odom", "base")))
    assert (source.name, source.world_frame, source.coverage) == ("/odom", "odom", 1.0)
    assert "/odom, known at 100% of the images, by TF at 20%" in caplog.text


@pytest.mark.parametrize("goal", ["goal_pose", "a_click"])
def test_a_goal_is_not_the_way(goal, caplog):
    """A click in RViz, whatever its topic is called; the camera's poses are named after it in the alphabet."""
    topics = {goal: (POSE, samples("map", "", [2.0])), "slam": (POSE, samples("map", ""))}
    source = choose(tree(), **topics)
    assert (source.name, source.coverage) == ("/slam", 1.0)
    np.testing.assert_allclose(camera_at(source), at(2.5), atol=1e-9)


def test_goals_that_are_sent_all_the_time_are_not_taken_either():
    with pytest.raises(SequenceError, match=r"no source of poses.* but /setpoint_position \(--pose-topic"):
        choose(tree(), setpoint_position=(POSE, samples("map", "")))
    told = BagOptions(pose="/setpoint_position")
    assert choose(tree(), told, setpoint_position=(POSE, samples("map", ""))).coverage == 1.0


def test_odometry_that_does_not_say_of_what(caplog):
    """It is of the robot, whose frame is the root of what carries the camera; never of the camera."""
    source = choose(mounted(), odom=(ODOMETRY, samples("odom", "")))
    np.testing.assert_allclose(camera_at(source), at(2.5) @ MOUNT, atol=1e-9)
    assert [r.getMessage() for r in caplog.records] == [
        "/odom names no child_frame_id: base, on which camera sits, is taken; --base-frame says otherwise"
    ]
    told = choose(mounted(), BagOptions(base_frame="/camera"), odom=(ODOMETRY, samples("odom", "")))
    np.testing.assert_allclose(camera_at(told), at(2.5), atol=1e-9)
    with pytest.raises(SequenceError, match=r"but /odom \(--pose-topic and --base-frame tell\)"):
        choose(tree(), odom=(ODOMETRY, samples("odom", "")))
    assert choose(tree(), BagOptions(base_frame="camera"), odom=(ODOMETRY, samples("odom", ""))).coverage == 1.0


def test_poses_of_the_base_where_they_are_told_to_be(caplog):
    source = choose(mounted(), slam=(POSE, samples("world", "")))
    np.testing.assert_allclose(camera_at(source), at(2.5), atol=1e-9)
    assert "taken as the camera's own, not as base's" in caplog.text
    told = choose(mounted(), BagOptions(base_frame="base"), slam=(POSE, samples("world", "")))
    np.testing.assert_allclose(camera_at(told), at(2.5) @ MOUNT, atol=1e-9)


def test_told_topic_takes_the_place_of_tf():
    buffer = mounted(tree(("map", "odom", 7.0), ("odom", "base", None)))
    vio = (ODOMETRY, samples("odom", "base", [s + 0.05 for s in STAMPS], offset=100.0))
    source = choose(buffer, BagOptions(pose="/vio"), vio=vio)
    np.testing.assert_allclose(camera_at(source), at(7 + 102.5) @ MOUNT, atol=1e-6)
    np.testing.assert_allclose(buffer.lookup("odom", "base", 2.5), at(2.5), atol=1e-9)  # left as it was


def test_odometry_goes_on_where_a_moving_head_ends():
    buffer = tree(("base", "camera", None))
    source = choose(buffer, odom=(ODOMETRY, samples("odom", "base")))
    assert (source.name, source.world_frame) == ("/odom", "odom")
    np.testing.assert_allclose(camera_at(source), at(5.0), atol=1e-9)


def test_two_of_a_kind_are_a_guess_that_is_said(caplog):
    topics = {name: (ODOMETRY, samples("odom", "base")) for name in ("wheels", "filtered")}
    assert choose(mounted(), **topics).name == "/filtered"
    assert "of several topics (/filtered, /wheels); --pose-topic names one, /filtered is taken" in caplog.text
    assert len(caplog.records) == 1


def test_a_camera_that_stands_still(caplog):
    source = choose(mounted())
    assert (source.name, source.world_frame) == ("TF", "base")
    np.testing.assert_array_equal(camera_at(source), MOUNT)
    assert "nothing in TF moves camera" in caplog.text


@pytest.mark.parametrize(
    ("options", "child", "kind"),
    [
        (BagOptions(), "base_footprint", ODOMETRY),
        (BagOptions(base_frame="base_lnk"), "base", ODOMETRY),
        (BagOptions(base_frame="nope"), "", POSE),
        (BagOptions(pose="/odom"), "wheels", ODOMETRY),
    ],
)
def test_poses_of_what_the_camera_does_not_sit_on_are_refused(options: BagOptions, child: str, kind: str) -> None:
    """Else all frames would lie in one place."""
    name = options.base_frame or child
    with pytest.raises(SequenceError, match=rf"/odom is of '{name}': no transform connects that with 'camera'"):
        choose(mounted(), options, odom=(kind, samples("odom", child)))


def test_poses_of_something_else_do_not_matter_where_tf_knows_the_camera() -> None:
    found = choose(mounted(tree(("odom", "base", None))), wheels=(ODOMETRY, samples("odom", "wheels")))
    assert found.name == "TF" and camera_at(found)[0, 3] == pytest.approx(2.7)


def test_a_camera_may_be_told_to_stand_still() -> None:
    still = choose(mounted(), BagOptions(pose="/tf"), odom=(ODOMETRY, samples("odom", "wheels")))
    assert still.name == "TF" and camera_at(still, 0.1)[0, 3] == camera_at(still, 4.0)[0, 3]
