"""Messages to library types and back, against independent decoders (struct, OpenCV, a plain reading of PointCloud2)."""

from __future__ import annotations

import array
import struct
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, Quaternion, Transform
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from chorus_core.frames import CameraIntrinsics, FrameError
from chorus_ros import conversions
from chorus_ros.conversions import MessageError

CAMERA = CameraIntrinsics(300.0, 301.0, 19.5, 14.5, 40, 30)


@dataclass
class Thing:
    """Stands for a SceneObject."""

    label: str = "chair"
    score: float = 0.5
    centroid: tuple = (1.0, 2.0, 3.0)
    box_center: tuple = (1.0, 2.0, 3.5)
    box_quat: tuple = (0.8, 0.0, 0.0, 0.6)
    box_size: tuple = (0.5, 0.4, 1.0)
    count: int = 42
    indices: tuple = ()
    id: int = 0
    first_seen: int = 0
    last_seen: int = 0


def read_points(cloud: PointCloud2) -> list[dict[str, float]]:
    """A cloud read field by field with struct, as its own description says."""
    codes = {PointField.FLOAT32: "f", PointField.UINT32: "I", PointField.INT32: "i"}
    order = ">" if cloud.is_bigendian else "<"
    data = bytes(cloud.data)
    assert len(data) == cloud.row_step * cloud.height
    return [
        {
            f.name: struct.unpack_from(order + codes[f.datatype], data, i * cloud.point_step + f.offset)[0]
            for f in cloud.fields
        }
        for i in range(cloud.width * cloud.height)
    ]


# ---- time ----


@given(st.integers(0, 2**31 - 1), st.integers(0, 999_999_999))
def test_stamps(sec: int, nanosec: int) -> None:
    stamp = Time(sec=sec, nanosec=nanosec)
    assert conversions.nanoseconds(stamp) == sec * 10**9 + nanosec
    assert conversions.time_message(conversions.nanoseconds(stamp)) == stamp


@pytest.mark.parametrize(("sec", "nanosec"), [(-1, 0), (0, 1_000_000_000)])
def test_bad_stamps(sec: int, nanosec: int) -> None:
    with pytest.raises(MessageError, match="stamp"):
        conversions.nanoseconds(Time(sec=sec, nanosec=nanosec))


@pytest.mark.parametrize("nanoseconds", [-1, 0, 2**31 * 10**9])
def test_no_stamp_of_ros(nanoseconds: int) -> None:
    """Before 1970, none yet, or after January 2038."""
    assert conversions.time_message(nanoseconds) == Time()


# ---- poses ----


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_pose_round_trip(wxyz: list[float]) -> None:
    from transforms3d.quaternions import quat2mat

    matrix = np.eye(4)
    matrix[:3, :3] = quat2mat(wxyz)
    matrix[:3, 3] = (1.0, -2.0, 0.5)
    np.testing.assert_allclose(conversions.matrix(conversions.pose_message(matrix)), matrix, atol=1e-12)
    np.testing.assert_allclose(conversions.matrix(conversions.transform_message(matrix)), matrix, atol=1e-12)


def test_quaternion_order() -> None:
    """A quarter turn about z takes x to y."""
    half = np.sqrt(0.5)
    matrix = conversions.matrix(Transform(rotation=Quaternion(x=0.0, y=0.0, z=half, w=half)))
    np.testing.assert_allclose(matrix[:3, :3] @ (1, 0, 0), (0, 1, 0), atol=1e-12)


@pytest.mark.parametrize("w", [0.0, 0.5, float("nan"), float("inf")])
def test_bad_quaternion(w: float) -> None:
    with pytest.raises(MessageError, match="quaternion"):
        conversions.matrix(Pose(orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=w)))


def test_bad_position() -> None:
    pose = Pose()
    pose.orientation.w, pose.position.y = 1.0, float("nan")
    with pytest.raises(MessageError, match="position"):
        conversions.matrix(pose)


def test_extrinsics_from_text() -> None:
    matrix = conversions.matrix_from_text("0.1 0 1.2, 0 0 0 1", "base_from_camera")
    np.testing.assert_allclose(matrix[:3, 3], (0.1, 0, 1.2))
    for text in ("1 2 3", "a b c d e f g", "0 0 0 0 0 0 0", "nan 0 0 0 0 0 1"):
        with pytest.raises(ValueError, match="base_from_camera"):
            conversions.matrix_from_text(text, "base_from_camera")


# ---- images ----


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 [30, 40, 3], smooth so that JPEG keeps it, and millimetres uint16 [30, 40] with holes."""
    rows, columns = np.mgrid[:30, :40]
    rgb = np.stack([rows * 8, columns * 6, (rows + columns) * 3], axis=-1).astype(np.uint8)
    depth = np.random.default_rng(seed).integers(300, 5000, (30, 40)).astype(np.uint16)
    depth[0, :3] = (0, 65535, 1234)
    return rgb, depth


def header(frame: str = "camera") -> Header:
    return Header(stamp=Time(sec=12, nanosec=500_000_000), frame_id=frame)


def messages() -> tuple[Image, Image, CameraInfo]:
    rgb, depth = images()
    return (
        conversions.image_message(header(), rgb, "rgb8"),
        conversions.image_message(header(), depth, "16UC1"),
        conversions.camera_info_message(header(), CAMERA),
    )


def test_frame_from_raw_messages() -> None:
    rgb, depth = images()
    frame = conversions.rgbd_frame(*messages(), np.eye(4))
    np.testing.assert_array_equal(frame.color, rgb)
    expected = np.where(np.isin(depth, (0, 65535)), 0, depth / 1000)
    np.testing.assert_allclose(frame.depth, expected, atol=1e-6)
    assert frame.intrinsics == CAMERA
    assert frame.stamp == 12_500_000_000


def test_frame_from_compressed_messages() -> None:
    rgb, depth = images()
    jpeg = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    png = cv2.imencode(".png", depth)[1]
    color = CompressedImage(header=header(), format="rgb8; jpeg compressed bgr8", data=conversions.byte_array(jpeg))
    packed = CompressedImage(header=header(), format="16UC1; png compressed ", data=conversions.byte_array(png))
    frame = conversions.rgbd_frame(color, packed, messages()[2], np.eye(4))
    assert np.abs(frame.color.astype(int) - rgb).mean() < 3
    assert frame.depth[0, 2] == pytest.approx(1.234)
    assert (frame.depth[0, :2] == 0).all()


def test_padded_rows_and_channel_order() -> None:
    rgb, _ = images()
    message = conversions.image_message(header(), np.zeros((30, 42, 3), np.uint8), "bgr8")
    padded = np.zeros((30, 42, 3), np.uint8)
    padded[:, :40] = rgb[:, :, ::-1]
    message.width, message.data = 40, conversions.byte_array(padded)
    np.testing.assert_array_equal(conversions.color_image(message), rgb)


def test_float_depth_is_metres() -> None:
    depth = np.full((30, 40), 1.5, np.float32)
    depth[0, :3] = (np.nan, np.inf, -1)
    metres = conversions.depth_image(conversions.image_message(header(), depth, "32FC1"))
    assert (metres[0, :3] == 0).all()
    assert (metres[1:] == 1.5).all()


def broken_messages() -> dict[str, tuple]:
    """Frames nothing can be made of, by what is wrong with them."""
    color, depth, info = messages()
    unknown = conversions.image_message(header(), images()[0], "yuv444")
    short = conversions.image_message(header(), images()[0], "rgb8")
    short.data = short.data[:100]
    narrow = conversions.image_message(header(), np.zeros((30, 20), np.uint16), "16UC1")
    uncalibrated = conversions.camera_info_message(header(), CAMERA)
    uncalibrated.k, uncalibrated.p = np.zeros(9), np.zeros(12)
    not_finite = conversions.camera_info_message(header(), CAMERA)
    not_finite.k, not_finite.p = np.full(9, np.nan), np.zeros(12)
    binned = conversions.camera_info_message(header(), CAMERA)
    binned.binning_x = 2
    jpeg = CompressedImage(header=header(), format="jpeg", data=conversions.byte_array(b"not a jpeg"))
    return {
        "unknown encoding": (unknown, depth, info),
        "data cut short": (short, depth, info),
        "other size of depth": (color, narrow, info),
        "K of zeros": (color, depth, uncalibrated),
        "K not finite": (color, depth, not_finite),
        "binning": (color, depth, binned),
        "garbage for a jpeg": (jpeg, depth, info),
        "colour for depth": (color, color, info),
        "depth for colour": (depth, depth, info),
    }


@pytest.mark.parametrize("name", broken_messages())
def test_broken_messages(name: str) -> None:
    with pytest.raises((MessageError, FrameError, conversions.ImageError)) as caught:
        conversions.rgbd_frame(*broken_messages()[name], np.eye(4))
    assert any(words in str(caught.value) for words in ("expected", "does not decode"))


@pytest.mark.parametrize("metres", [1.1e5, -1e12, 1e300, float("nan")])
def test_camera_beyond_reach(metres: float) -> None:
    """Positions that float32 cannot tell apart would lump the map together, or put infinity into it."""
    pose = np.eye(4)
    pose[1, 3] = metres
    with pytest.raises(FrameError, match=r"expected within 100000 m|non-finite"):
        conversions.rgbd_frame(*messages(), pose)


# ---- clouds ----


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=20), st.integers(0, 2**31 - 1))
def test_cloud_fields(colors: list[tuple[int, int, int]], seed: int) -> None:
    n = len(colors)
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3)).astype(np.float32)
    labels, instances = rng.integers(-1, 5, n), rng.integers(-1, 9, n)
    confidence = rng.random(n).astype(np.float32)
    rgb = np.array(colors, np.uint8).reshape(-1, 3)
    cloud = conversions.cloud_message(header("map"), points, rgb, labels, instances, confidence)
    assert (cloud.height, cloud.width, cloud.header.frame_id) == (1, n, "map")
    assert [f.name for f in cloud.fields] == ["x", "y", "z", "rgb", "label", "instance", "confidence"]
    for i, point in enumerate(read_points(cloud)):
        assert (point["x"], point["y"], point["z"]) == tuple(points[i].tolist())
        # what rviz_default_plugins' RGB8 transformer does: the float's bits are 0x00RRGGBB
        bits = struct.unpack("<I", struct.pack("<f", point["rgb"]))[0]
        assert ((bits >> 16) & 255, (bits >> 8) & 255, bits & 255) == colors[i]
        assert point["label"] == (conversions.NO_LABEL if labels[i] < 0 else labels[i])
        assert point["instance"] == instances[i]
        assert point["confidence"] == confidence[i]


def test_large_cloud_is_filled_through_an_array() -> None:
    """A uint8[] field checks bytes one by one, an array of bytes not at all."""
    n = 500_000
    cloud = conversions.cloud_message(header(), np.zeros((n, 3), np.float32), np.zeros((n, 3), np.uint8))
    assert isinstance(cloud.data, array.array)
    assert cloud.data.typecode == "B"
    assert len(cloud.data) == 28 * n


def test_instances_from_objects() -> None:
    objects = [Thing(indices=(1, 3)), Thing(indices=(4,))]
    assert conversions.object_instances(5, objects).tolist() == [-1, 0, -1, 0, 1]


# ---- objects and labels ----


def test_object_message() -> None:
    message = conversions.object_message(header("map"), Thing(id=7, first_seen=3_000_000_001, last_seen=5))
    assert (message.id, message.label, message.gaussians) == (7, "chair", 42)
    assert message.score == pytest.approx(0.5)
    assert (message.first_seen.sec, message.first_seen.nanosec) == (3, 1)
    assert (message.last_seen.sec, message.last_seen.nanosec) == (0, 5)
    orientation = message.pose.orientation
    assert (orientation.w, orientation.x, orientation.y, orientation.z) == (0.8, 0.0, 0.0, 0.6)
    assert (message.pose.position.z, message.centroid.z, message.size.z) == (3.5, 3.0, 1.0)


def test_markers_replace_what_was_shown() -> None:
    array = conversions.marker_messages(
        header("map"), [Thing(id=4), Thing(label="table", id=9)], [(255, 0, 0), (0, 0, 255)]
    )
    assert array.markers[0].action == Marker.DELETEALL
    shown = [(m.ns, m.id, m.type) for m in array.markers[1:]]
    kinds = (("boxes", Marker.CUBE), ("names", Marker.TEXT_VIEW_FACING))
    assert shown == [(ns, i, kind) for i in (4, 9) for ns, kind in kinds]
    assert array.markers[4].text == "table"
    assert array.markers[1].color.r == 1.0
    assert array.markers[2].pose.position.z > 4.0  # above the box, which ends at 4.0 m


def test_label_info() -> None:
    colors = np.array([[255, 0, 0], [0, 51, 0]], np.uint8)
    message = conversions.label_info_message(header(""), ["chair", "table"], colors)
    assert list(message.ids) == [0, 1]
    assert list(message.names) == ["chair", "table"]
    assert (message.colors[0].r, message.colors[1].g) == (1.0, pytest.approx(0.2))
