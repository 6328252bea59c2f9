"""Bags as robots record them, written here through rosbags: both storages, raw and compressed, all sources of poses."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np
import pytest
from recordings import (
    BASE_FROM_CAMERA,
    COLOR,
    COUNT,
    DEPTH,
    HEIGHT,
    INFO,
    OPTICAL,
    PERIOD,
    START,
    WIDTH,
    Raw,
    Recording,
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
    write_mcap,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from chorus_core.__main__ import main
from chorus_core.io.bag_topics import CAMERA_INFO
from chorus_core.io.gaussian_ply import load_gaussians
from chorus_core.io.rgbd import BagOptions, RgbdSequence, SequenceError, open_sequence
from chorus_core.io.rosbag import RosbagSequence
from training import evaluate


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize(("images", "depth"), [(i, d) for i in ("raw", "compressed") for d in ("16UC1", "32FC1")])
def test_every_storage_and_encoding(tmp_path, storage, images, depth):
    folder = with_tf(with_images(images, depth)).write(tmp_path / "bag", storage)
    sequence = open_sequence(folder)
    assert isinstance(sequence, RgbdSequence)
    assert (sequence.world_frame, sequence.camera_frame) == ("odom", OPTICAL)
    check_frames(sequence, 2e-3)
    assert not sequence.dropped


@pytest.mark.parametrize("encoding", ["rgb16", "bayer_rggb8", "bayer_rggb16", "nv12", "yuyv"])
def test_color_is_told_from_depth_by_its_encoding(tmp_path, encoding):
    """Sixteen bits are not depth, and one channel is not grey, where the encoding says what they are."""
    shape = {"rgb16": (HEIGHT, WIDTH, 3), "yuyv": (HEIGHT, WIDTH, 2), "nv12": (HEIGHT * 3 // 2, WIDTH)}
    dtype = np.uint16 if encoding.endswith("16") else np.uint8
    pixels = np.full(shape.get(encoding, (HEIGHT, WIDTH)), 128 * (257 if dtype == np.uint16 else 1), dtype)
    recording = with_tf(with_images())
    for n, (topic, kind, stamp, message) in enumerate(recording.messages):
        if topic == COLOR:
            image = raw_image(stamp, encoding, pixels)
            image.height = HEIGHT
            recording.messages[n] = ("/cam/left", kind, stamp, replace(image, header=message.header))
        elif topic == DEPTH:
            recording.messages[n] = ("/cam/stereo", kind, stamp, message)
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert (sequence.topics.color, sequence.topics.depth) == ("/cam/left", "/cam/stereo")
    assert len(sequence) == COUNT and np.abs(sequence[0].color.astype(int) - 129).max() <= 2


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
    sequence = open_sequence(recording.write(tmp_path / "bag"), BagOptions(pose="/vio"))
    np.testing.assert_allclose(sequence[3].world_from_camera, BASE_FROM_CAMERA, atol=1e-9)


def test_pose_stamped_is_of_the_camera(tmp_path):
    recording = with_images()
    for i in np.arange(-0.5, COUNT + 1):
        recording.add("/slam/pose", stamp_of(i), pose_stamped(stamp_of(i), odom_from_base(i * PERIOD)))
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.world_frame == "world"
    np.testing.assert_allclose(sequence[2].world_from_camera, odom_from_base(2 * PERIOD), atol=1e-6)


def test_a_goal_in_the_map_is_not_where_the_camera_is(tmp_path):
    recording = with_images()
    recording.add("/goal_pose", stamp_of(2), pose_stamped(stamp_of(2), odom_from_base(9.0)))
    for i in range(COUNT):
        world_from_camera = odom_from_base(i * PERIOD) @ BASE_FROM_CAMERA
        recording.add("/slam/pose", stamp_of(i), pose_stamped(stamp_of(i), world_from_camera))
    check_frames(open_sequence(recording.write(tmp_path / "bag")))


def test_odometry_without_child_is_of_the_base(tmp_path):
    recording = with_images()
    recording.add("/tf_static", START - 1, tf(START - 1, "base_link", OPTICAL, BASE_FROM_CAMERA))
    for i in np.arange(-0.5, COUNT + 1):
        recording.add("/odom", stamp_of(i), odometry(stamp_of(i), odom_from_base(i * PERIOD), child=""))
    check_frames(open_sequence(recording.write(tmp_path / "bag")))


def test_map_on_the_earth_and_a_stray_parent(tmp_path):
    recording = with_tf(with_images())
    earth_from_map, map_from_odom = np.eye(4), odom_from_base(9.0)
    earth_from_map[:2, 3] = 5e5, 5.5e6
    recording.add("/tf_static", START - 1, tf(START - 1, "utm", "map", earth_from_map))
    recording.add("/tf_static", START - 1, tf(START - 1, "map", "odom", map_from_odom))
    recording.add("/tf", stamp_of(COUNT), tf(stamp_of(COUNT), "wheel_odom", "base_link", np.eye(4)))
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.world_frame == "map" and len(sequence) == COUNT
    expected = map_from_odom @ odom_from_base(2 * PERIOD) @ BASE_FROM_CAMERA
    np.testing.assert_allclose(sequence[2].world_from_camera, expected, atol=1e-6)


def test_world_frame_can_be_told(tmp_path):
    recording = with_tf(with_images())
    map_from_odom = odom_from_base(9.0)
    recording.add("/tf_static", START - 1, tf(START - 1, "map", "odom", map_from_odom))
    folder = recording.write(tmp_path / "bag")
    in_map = open_sequence(folder)
    in_odom = open_sequence(folder, BagOptions(world_frame="odom"))
    assert (in_map.world_frame, in_odom.world_frame) == ("map", "odom")
    np.testing.assert_allclose(in_map[1].world_from_camera, map_from_odom @ in_odom[1].world_from_camera, atol=1e-9)
    with pytest.raises(SequenceError, match="unknown frame 'moon'"):
        open_sequence(folder, BagOptions(world_frame="moon"))


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
    assert [f.stamp * 1e-9 for f in sequence] == pytest.approx([stamp_of(i) for i in (0, 2, 3)], abs=1e-6)


def test_frames_within_a_long_gap_of_the_poses_are_dropped(tmp_path):
    """Poses stop for 2.8 seconds: frames in there have none, those around have theirs."""
    recording = with_images()
    recording.add("/tf_static", START - 1, tf(START - 1, "base_link", OPTICAL, BASE_FROM_CAMERA))
    for i in (-0.5, 0.5, 1.5, 29.5):
        recording.add("/tf", stamp_of(i), tf(stamp_of(i), "odom", "base_link", odom_from_base(i * PERIOD)))
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.dropped == {"no pose": 3}
    assert [f.stamp * 1e-9 for f in sequence] == pytest.approx([stamp_of(0), stamp_of(1)], abs=1e-6)


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


def test_messages_recorded_twice(tmp_path):
    """Two recorders, whose bags were merged: each frame once."""
    recording = with_tf(with_images())
    recording.messages += [m for m in recording.messages if m[0] in (COLOR, DEPTH)]
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    check_frames(sequence)
    assert sequence.dropped == {"message recorded twice": 2 * COUNT}


def test_file_that_is_damaged_after_it_was_opened(tmp_path):
    """A part of the frames is gone: the others come, in order, and those are counted."""
    path = write_mcap(tmp_path / "bag.mcap")
    sequence = open_sequence(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    stamps = [frame.stamp for frame in sequence]
    assert stamps == sorted(stamps) and 0 < len(stamps) < COUNT
    assert sequence.dropped == {"damaged": COUNT - len(stamps)}


def test_calibration_of_another_camera_is_said(tmp_path, caplog):
    recording = with_tf(with_images())
    for _, kind, _, message in recording.messages:
        if kind == CAMERA_INFO:
            message.header.frame_id = "back_optical"
    check_frames(open_sequence(recording.write(tmp_path / "bag")))
    assert "camera_info in back_optical: it is taken as the calibration of colour all the same" in caplog.text


def test_topics_of_another_serialization_are_named(tmp_path):
    path = write_mcap(tmp_path / "bag.mcap", foreign=("jsonschema", "{}", "json"))
    with pytest.raises(SequenceError, match=r"'/none' has no messages: .*; not read, .*: /navigate/.* \(json\)"):
        open_sequence(path, BagOptions(color="/none"))


def test_damaged_messages_are_dropped_and_counted(tmp_path):
    recording = with_tf(with_images())
    changed = {1: raw_image(stamp_of(1) + 0.004, "nv61", color_of(1)), 2: Raw(b"\x00\x01\x00\x00\x05")}
    for n, (topic, kind, stamp, _) in enumerate(recording.messages):
        if topic == COLOR and (i := round((stamp - 0.004 - START) / PERIOD)) in changed:
            recording.messages[n] = (topic, kind, stamp, changed[i])
    sequence = open_sequence(recording.write(tmp_path / "bag"))
    assert sequence.dropped == {"message not readable": 1}
    assert [f.stamp * 1e-9 for f in sequence] == pytest.approx([stamp_of(i) for i in (0, 3, 4)], abs=1e-6)
    assert sequence.dropped == {"message not readable": 1, "damaged": 1}
    with pytest.raises(SequenceError, match="encoding 'nv61'"):
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


def test_region_of_interest_gives_the_rays_of_the_whole_sensor(tmp_path):
    """The driver sends the middle of a sensor of twice the size: K is of the sensor, the images are of the region."""
    recording = with_tf(with_images())
    for n, (topic, kind, stamp, message) in enumerate(recording.messages):
        if topic == INFO:
            message.width, message.height = 2 * WIDTH, 2 * HEIGHT
            message.k = np.array([30.0, 0, 15.5 + WIDTH / 2, 0, 31, 11.5 + HEIGHT / 2, 0, 0, 1])
            message.roi.x_offset, message.roi.y_offset = WIDTH // 2, HEIGHT // 2
            message.roi.width, message.roi.height = WIDTH, HEIGHT
            recording.messages[n] = (topic, kind, stamp, message)
    check_frames(open_sequence(recording.write(tmp_path / "bag")))


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
        (BagOptions(color="/none"), "color topic '/none' has no messages: expected sensor_msgs/msg/Image"),
        (BagOptions(depth=INFO), "depth topic '/camera/color/camera_info' is sensor_msgs/msg/CameraInfo"),
        (BagOptions(pose=COLOR), "pose topic .* is sensor_msgs/msg/Image: expected tf2_msgs"),
        (BagOptions(camera_frame="nose"), "no source of poses"),
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
            index = round((frame.stamp * 1e-9 - START) / PERIOD)
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


def two_cameras() -> Recording:
    """A second, whole camera behind the first one, with green images."""
    recording = with_tf(with_images())
    for topic, _, stamp, _ in list(recording.messages):
        if topic == COLOR:
            green = np.full((HEIGHT, WIDTH, 3), (0, 200, 0), np.uint8)
            recording.add("/back/color/image_raw", stamp, raw_image(stamp, "rgb8", green, "back_optical"))
            depth = np.full((HEIGHT, WIDTH), 700, np.uint16)
            recording.add("/back/depth/image_raw", stamp, raw_image(stamp, "16UC1", depth, "back_optical"))
    info = camera_info(START)
    info.header.frame_id = "back_optical"
    recording.add("/back/color/camera_info", START, info)
    recording.add("/tf_static", START - 1, tf(START - 1, "base_link", "back_optical", np.eye(4)))
    return recording


def test_colour_depth_and_calibration_are_of_one_camera(tmp_path, caplog):
    """A colour camera without depth, whose name goes before, does not get in."""
    recording = two_cameras()
    recording.messages = [m for m in recording.messages if m[0] != "/back/depth/image_raw"]
    check_frames(open_sequence(recording.write(tmp_path / "bag")))
    assert not caplog.records


def test_topics_on_the_command_line(tmp_path, caplog, capsys):
    folder = str(two_cameras().write(tmp_path / "bag"))
    assert main(["info", folder]) == 0
    assert caplog.text.count("--color-topic and --depth-topic name the one") == 1
    assert main(["info", folder, "--color-topic", "/back/color/image_raw"]) == 0
    assert "up to 0.70 m" in capsys.readouterr().out
    back = ["--depth-topic", "/back/depth/image_raw", "--pose-topic", "/tf", "--world-frame", "base_link"]
    out = tmp_path / "map.ply"
    assert main(["map", folder, "--bare", "--out", str(out), *back, "--camera-frame", "back_optical"]) == 0
    means = load_gaussians(out).means
    assert means[:, 2].numpy() == pytest.approx(0.7, abs=0.01), "the camera is the base: depth is the height"
    assert main(["info", folder, "--info-topic", "/tf"]) == 2
    assert "camera_info topic '/tf' is tf2_msgs/msg/TFMessage" in capsys.readouterr().err


def test_the_evaluator_takes_the_same_topics(tmp_path):
    (tmp_path / "house").mkdir()
    two_cameras().write(tmp_path / "house" / "bag")
    told = ["--color-topic", "/back/color/image_raw", "--world-frame", "base_link"]
    sequence = ["sequence", "--model", "chorus_mini", "--out", "out", "--sequence", str(tmp_path / "house")]
    recording = evaluate.open_recording(evaluate.build_parser().parse_args([*sequence, *told]))
    assert (recording.topics.color, recording.world_frame) == ("/back/color/image_raw", "base_link")


def test_rectified_images_take_the_projection_matrix(tmp_path):
    recording = with_tf(with_images())
    recording.messages = [
        ("/camera/color/image_rect" if t == COLOR else t, k, s, m) for t, k, s, m in recording.messages
    ]
    intrinsics = open_sequence(recording.write(tmp_path / "bag"))[0].intrinsics
    assert (intrinsics.fx, intrinsics.cx) == (40, 15)


def test_a_robot_whose_name_holds_rect_has_raw_images(tmp_path):
    recording = with_tf(with_images())
    recording.messages = [(f"/direct_drive{t}" if t == COLOR else t, k, s, m) for t, k, s, m in recording.messages]
    intrinsics = open_sequence(recording.write(tmp_path / "bag"))[0].intrinsics
    assert (intrinsics.fx, intrinsics.cx) == (30, 15.5)
