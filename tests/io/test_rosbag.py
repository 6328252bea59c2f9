"""Bags as robots record them, written here through rosbags: both storages, raw and compressed, all sources of poses."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from recordings import (
    BASE_FROM_CAMERA,
    COLOR,
    COUNT,
    DEPTH,
    INFO,
    OPTICAL,
    PERIOD,
    START,
    Raw,
    camera_info,
    check_frames,
    color_of,
    depth_of,
    odom_from_base,
    odometry,
    pose_stamped,
    raw_image,
    stamp_of,
    tf,
    with_images,
    with_tf,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from chorus_core.io.bag_topics import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    choose_image_topics,
    is_rectified,
)
from chorus_core.io.rgbd import BagTopics, RgbdSequence, SequenceError, open_sequence
from chorus_core.io.rosbag import RosbagSequence


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize(("images", "depth"), [(i, d) for i in ("raw", "compressed") for d in ("16UC1", "32FC1")])
def test_every_storage_and_encoding(tmp_path, storage, images, depth):
    folder = with_tf(with_images(images, depth)).write(tmp_path / "bag", storage)
    sequence = open_sequence(folder)
    assert isinstance(sequence, RgbdSequence)
    assert (sequence.world_frame, sequence.camera_frame) == ("odom", OPTICAL)
    check_frames(sequence, 2e-3)
    assert not sequence.dropped


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("alone", [False, True])
def test_without_metadata(tmp_path, storage, alone):
    folder = with_tf(with_images()).write(tmp_path / "bag", storage)
    (folder / "metadata.yaml").unlink()
    check_frames(open_sequence(next(folder.iterdir()) if alone else folder))


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_zstd_compressed_sqlite(tmp_path, mode):
    check_frames(open_sequence(with_tf(with_images()).write(tmp_path / "bag", StoragePlugin.SQLITE3, mode)))


def test_pose_from_odometry_joined_with_static_tf(tmp_path):
    recording = with_images()
    recording.add("/tf_static", START - 1, tf(START - 1, "base_link", OPTICAL, BASE_FROM_CAMERA))
    for i in np.arange(-0.5, COUNT + 1):
        recording.add("/odom", stamp_of(i), odometry(stamp_of(i), odom_from_base(i * PERIOD)))
    check_frames(open_sequence(recording.write(tmp_path / "bag")))


def test_odometry_goes_on_where_moving_joints_end(tmp_path):
    recording = with_images()
    for i in np.arange(-0.5, COUNT + 1):
        recording.add("/odom", stamp_of(i), odometry(stamp_of(i), odom_from_base(i * PERIOD)))
        recording.add("/tf", stamp_of(i), tf(stamp_of(i), "base_link", OPTICAL, BASE_FROM_CAMERA))
    check_frames(open_sequence(recording.write(tmp_path / "bag")))


def test_told_odometry_wins_over_tf(tmp_path):
    recording = with_tf(with_images())
    for i in np.arange(-0.5, COUNT + 1):
        recording.add("/vio", stamp_of(i), odometry(stamp_of(i), np.eye(4)))
    sequence = open_sequence(recording.write(tmp_path / "bag"), BagTopics(pose="/vio"))
    np.testing.assert_allclose(sequence[3].world_from_camera, BASE_FROM_CAMERA, atol=1e-9)


def test_pose_stamped_is_of_the_camera(tmp_path):
    recording = with_images()
    for i in np.arange(-0.5, COUNT + 1):
        recording.add("/slam/pose", stamp_of(i), pose_stamped(stamp_of(i), odom_from_base(i * PERIOD)))
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.world_frame == "world"
    np.testing.assert_allclose(sequence[2].world_from_camera, odom_from_base(2 * PERIOD), atol=1e-6)


def test_world_frame_can_be_told(tmp_path):
    recording = with_tf(with_images())
    map_from_odom = odom_from_base(9.0)
    recording.add("/tf_static", START - 1, tf(START - 1, "map", "odom", map_from_odom))
    folder = recording.write(tmp_path / "bag")
    in_map = open_sequence(folder)
    in_odom = open_sequence(folder, BagTopics(world_frame="odom"))
    assert (in_map.world_frame, in_odom.world_frame) == ("map", "odom")
    np.testing.assert_allclose(in_map[1].world_from_camera, map_from_odom @ in_odom[1].world_from_camera, atol=1e-9)
    with pytest.raises(SequenceError, match="unknown frame 'moon'"):
        open_sequence(folder, BagTopics(world_frame="moon"))


def test_frames_without_partner_or_pose_are_counted(tmp_path):
    recording = with_tf(with_images())
    late = stamp_of(COUNT - 1)
    recording.messages = [
        m
        for m in recording.messages
        if not (m[0] == DEPTH and m[2] == stamp_of(1)) and not (m[0] == "/tf" and m[2] > late)
    ]
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.dropped == {"no depth in time": 1, "no pose": 1}
    assert [f.stamp for f in sequence] == pytest.approx([stamp_of(i) for i in (0, 2, 3)], abs=1e-6)


def test_frames_within_a_long_gap_of_the_poses_are_dropped(tmp_path):
    """Poses stop for 2.8 seconds: frames in there have none, those around have theirs."""
    recording = with_images()
    recording.add("/tf_static", START - 1, tf(START - 1, "base_link", OPTICAL, BASE_FROM_CAMERA))
    for i in (-0.5, 0.5, 1.5, 29.5):
        recording.add("/tf", stamp_of(i), tf(stamp_of(i), "odom", "base_link", odom_from_base(i * PERIOD)))
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.dropped == {"no pose": 3}
    assert [f.stamp for f in sequence] == pytest.approx([stamp_of(0), stamp_of(1)], abs=1e-6)


def test_slop(tmp_path):
    folder = with_tf(with_images(lag=0.03)).write(tmp_path / "bag")
    with pytest.raises(SequenceError, match="no depth in time: 5"):
        open_sequence(folder)
    check_frames(RosbagSequence(folder, slop=0.035))


def test_messages_recorded_out_of_order(tmp_path):
    """Depth half a second late on the wire: paired by header, handed out in order."""
    recording = with_tf(with_images())
    recording.messages = [(t, k, s + 0.5 * (t == DEPTH), m) for t, k, s, m in recording.messages]
    check_frames(open_sequence(recording.write(tmp_path / "bag")))


def test_damaged_messages_are_dropped_and_counted(tmp_path):
    recording = with_tf(with_images())
    changed = {1: raw_image(stamp_of(1) + 0.004, "nv21", color_of(1)), 2: Raw(b"\x00\x01\x00\x00\x05")}
    for n, (topic, kind, stamp, _) in enumerate(recording.messages):
        if topic == COLOR and (i := round((stamp - 0.004 - START) / PERIOD)) in changed:
            recording.messages[n] = (topic, kind, stamp, changed[i])
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.dropped == {"message not readable": 1}
    assert [f.stamp for f in sequence] == pytest.approx([stamp_of(i) for i in (0, 3, 4)], abs=1e-6)
    assert sequence.dropped == {"message not readable": 1, "damaged": 1}
    with pytest.raises(SequenceError, match="encoding 'nv21'"):
        sequence[1]


def test_unregistered_depth_is_refused_and_smaller_depth_accepted(tmp_path):
    for shape, fits in (((12, 16), True), ((24, 40), False)):
        recording = with_tf(with_images())
        small = np.full(shape, 1500, np.uint16)
        for n, (topic, kind, stamp, _) in enumerate(recording.messages):
            if topic == DEPTH:
                recording.messages[n] = (topic, kind, stamp, raw_image(stamp, "16UC1", small))
        sequence = open_sequence(recording.write(tmp_path / f"bag{fits}"))
        if fits:
            frame = sequence[0]
            assert frame.color.shape == (12, 16, 3) and frame.intrinsics.fx == 15
        else:
            with pytest.raises(SequenceError, match="registered to the colour camera"):
                list(sequence)


def test_calibration_that_changes(tmp_path):
    recording = with_tf(with_images())
    for n, (topic, kind, stamp, _) in enumerate(recording.messages):
        if topic == INFO and stamp > stamp_of(2):
            recording.messages[n] = (topic, kind, stamp - 0.004, camera_info(stamp - 0.004, fx=50.0))
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert [f.intrinsics.fx for f in sequence] == [30, 30, 50, 50, 50]


def test_zero_calibration(tmp_path):
    recording = with_tf(with_images())
    recording.messages = [(t, k, s, camera_info(s, fx=0.0) if t == INFO else m) for t, k, s, m in recording.messages]
    with pytest.raises(SequenceError, match=r"no usable message on /camera/color/camera_info: .*fx, fy > 0"):
        open_sequence(recording.write(tmp_path / "bag"))


def test_bad_transforms_are_counted_not_fatal(tmp_path):
    recording = with_tf(with_images())
    broken = tf(stamp_of(1.2), "odom", "base_link", np.eye(4))
    broken.transforms[0].transform.rotation.w = 0.0
    recording.add("/tf", stamp_of(1.2), broken)
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    check_frames(sequence)
    assert sequence.dropped == {"transform not usable": 1}


def test_no_pose_at_all(tmp_path):
    with pytest.raises(SequenceError, match=r"no source of poses"):
        open_sequence(with_images().write(tmp_path / "bag"))


@pytest.mark.parametrize("topic", [COLOR, DEPTH, INFO])
def test_missing_topic_is_named_with_those_there_are(tmp_path, topic):
    recording = with_tf(with_images())
    recording.messages = [m for m in recording.messages if m[0] != topic]
    name = {COLOR: "color", DEPTH: "depth", INFO: "camera_info"}[topic]
    with pytest.raises(SequenceError, match=rf"no {name} topic .*topics are: .*/tf \(tf2_msgs/msg/TFMessage\)"):
        open_sequence(recording.write(tmp_path / "bag"))


@pytest.mark.parametrize(
    ("topics", "message"),
    [
        (BagTopics(color="/none"), "color topic '/none' has no messages: expected sensor_msgs/msg/Image"),
        (BagTopics(depth=INFO), "depth topic '/camera/color/camera_info' is sensor_msgs/msg/CameraInfo"),
        (BagTopics(pose=COLOR), "pose topic .* is sensor_msgs/msg/Image: expected tf2_msgs"),
        (BagTopics(camera_frame="nose"), "no source of poses"),
    ],
)
def test_wrongly_told_topics(tmp_path, topics, message):
    with pytest.raises(SequenceError, match=message):
        open_sequence(with_tf(with_images()).write(tmp_path / "bag"), topics)


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.6, 0.98])
def test_cut_short(tmp_path, storage, keep):
    """One kind of error, or the frames before the cut."""
    folder = with_tf(with_images()).write(tmp_path / "bag", storage)
    file = next(p for p in folder.iterdir() if p.suffix in (".mcap", ".db3"))
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    try:
        for frame in open_sequence(folder):
            index = round((frame.stamp - START) / PERIOD)
            np.testing.assert_allclose(frame.depth, depth_of(index), atol=1e-3)
    except SequenceError as error:
        assert str(tmp_path) in str(error)
    else:
        assert keep > 0.9 or storage == StoragePlugin.MCAP


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_garbled(tmp_path, storage):
    folder = with_tf(with_images()).write(tmp_path / "bag", storage)
    file = next(p for p in folder.iterdir() if p.suffix in (".mcap", ".db3"))
    content = bytearray(file.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 5000] = bytes(5000)
    file.write_bytes(content)
    with contextlib.suppress(SequenceError):
        assert len(list(open_sequence(folder))) <= COUNT


def test_bad_metadata(tmp_path):
    (tmp_path / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    with pytest.raises(SequenceError, match="not a readable rosbag2 recording"):
        open_sequence(tmp_path)


@pytest.mark.parametrize(
    ("topics", "expected"),
    [
        # realsense2_camera
        (
            [
                "/camera/color/image_raw",
                "/camera/color/image_raw/compressed",
                "/camera/depth/image_rect_raw",
                "/camera/aligned_depth_to_color/image_raw",
                "/camera/infra1/image_rect_raw",
                "/camera/color/camera_info",
                "/camera/depth/camera_info",
                "/camera/aligned_depth_to_color/camera_info",
            ],
            (
                "/camera/color/image_raw",
                "/camera/aligned_depth_to_color/image_raw",
                "/camera/color/camera_info",
            ),
        ),
        # openni_launch, as in the TUM bags
        (
            [
                "/camera/rgb/image_color",
                "/camera/depth_registered/image",
                "/camera/depth/image",
                "/camera/rgb/camera_info",
                "/camera/depth/camera_info",
            ],
            ("/camera/rgb/image_color", "/camera/depth_registered/image", "/camera/rgb/camera_info"),
        ),
        # zed_wrapper
        (
            [
                "/zed/zed_node/left/image_rect_color/compressed",
                "/zed/zed_node/rgb/image_rect_color/compressed",
                "/zed/zed_node/depth/depth_registered/compressedDepth",
                "/zed/zed_node/depth/depth_registered/compressed",
                "/zed/zed_node/confidence/confidence_map",
                "/zed/zed_node/rgb/camera_info",
                "/zed/zed_node/depth/camera_info",
            ],
            (
                "/zed/zed_node/rgb/image_rect_color/compressed",
                "/zed/zed_node/depth/depth_registered/compressedDepth",
                "/zed/zed_node/rgb/camera_info",
            ),
        ),
        # a simulator with labels beside the colours
        (
            ["/image", "/labels/image", "/depth", "/camera_info"],
            ("/image", "/depth", "/camera_info"),
        ),
    ],
)
def test_topics_of_common_drivers(topics, expected):
    def kind(topic: str) -> str:
        if topic.endswith("camera_info"):
            return CAMERA_INFO
        return COMPRESSED_IMAGE if "compressed" in topic else IMAGE

    chosen = choose_image_topics({topic: kind(topic) for topic in topics}, BagTopics())
    assert (chosen.color, chosen.depth, chosen.camera_info) == expected


def test_rectified_images_take_the_projection_matrix(tmp_path):
    recording = with_tf(with_images())
    recording.messages = [
        ("/camera/color/image_rect" if t == COLOR else t, k, s, m) for t, k, s, m in recording.messages
    ]
    intrinsics = open_sequence(recording.write(tmp_path / "bag"))[0].intrinsics
    assert (intrinsics.fx, intrinsics.cx) == (40, 15)


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("/camera/color/image_rect", True),
        ("/camera/color/image_rect/compressed", True),
        ("/zed/zed_node/rgb/image_rect_color", True),
        ("/camera/Rectified/image", True),
        ("rect", True),
        ("/direct_drive/camera/image_raw", False),
        ("/camera/color/image_raw", False),
        ("/correction/image_unrectified", False),
    ],
)
def test_which_names_say_rectified(topic, expected):
    assert is_rectified(topic) is expected


def test_a_robot_whose_name_holds_rect_has_raw_images(tmp_path):
    recording = with_tf(with_images())
    recording.messages = [(f"/direct_drive{t}" if t == COLOR else t, k, s, m) for t, k, s, m in recording.messages]
    intrinsics = open_sequence(recording.write(tmp_path / "bag"))[0].intrinsics
    assert (intrinsics.fx, intrinsics.cx) == (30, 15.5)
