"""Parts of the demo's recorder: the simulated robot, the labelled surface, the bag."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

pytest.importorskip("embreex")

from rosbags.highlevel import AnyReader

from chorus_core.frames import CameraIntrinsics
from training.scenes.assets import AssetError
from training.scenes.bag import BagWriter, quaternion
from training.scenes.camera import FreeSpace, camera_pose
from training.scenes.drive import DriveLimits, Waypoint, simulate
from training.scenes.house import SurfaceBuilder, load_house
from training.scenes.label import LabelView

INTRINSICS = CameraIntrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)


def open_hall() -> FreeSpace:
    free = np.zeros((80, 80), bool)
    free[2:-2, 2:-2] = True
    free[30:50, 35:45] = False
    clearance = cv2.distanceTransform(free.astype(np.uint8), cv2.DIST_L2, 5) * 0.1
    return FreeSpace(free, clearance.astype(np.float32), np.zeros(2), 0.1)


def test_drive_respects_its_limits_and_arrives():
    space, limits = open_hall(), DriveLimits()
    route = [Waypoint((1, 1), (4, 4)), Waypoint((7, 1), (4, 4)), Waypoint((7, 7), (0, 0)), Waypoint((1, 7), (1, 0))]
    drive = simulate(space, route, limits)
    step = np.diff(drive.stamps)
    speed = np.linalg.norm(np.diff(drive.xy, axis=0), axis=1) / step
    assert speed.max() <= limits.speed + 1e-6
    assert np.abs(np.diff(drive.yaw) / step).max() <= limits.yaw_rate + 1e-6
    np.testing.assert_allclose(drive.xy[-1], (1.05, 7.05), atol=0.1)
    to_look = np.array([1, 0]) - drive.xy[-1]
    assert abs(np.angle(np.exp(1j * (np.arctan2(to_look[1], to_look[0]) - drive.yaw[-1])))) < 0.1
    cells = np.floor(drive.xy / space.cell).astype(int)
    assert space.free[cells[:, 0], cells[:, 1]].all()


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[st.floats(-3, 3)] * 3))
def test_quaternion_agrees_with_scipy(vector):
    rotation = Rotation.from_rotvec(vector)
    ours = np.array(quaternion(rotation.as_matrix()))
    assert abs(ours @ rotation.as_quat()) == pytest.approx(1.0, abs=1e-9)
    assert ours[3] >= 0


def test_surface_keeps_one_labelled_point_a_voxel():
    instance = np.zeros((48, 64), np.int32)
    instance[:, 32:] = 1
    pose = camera_pose(np.array([0.0, 0.0, 1.0]), 0.0, 0.0)  # looking along +x at a wall at x = 2
    view = LabelView(np.full((48, 64), 2.0, np.float32), instance, INTRINSICS, pose)
    builder = SurfaceBuilder(voxel=0.05)
    for _ in range(30):
        builder.add(view)
    points, labels = builder.finish()
    np.testing.assert_allclose(points[:, 0], 2.0, atol=1e-6)
    cells = np.floor(points / 0.05).astype(int)
    assert len(np.unique(cells, axis=0)) == len(cells)
    assert (labels[points[:, 1] > 0.05] == 0).all() and (labels[points[:, 1] < -0.05] == 1).all()


def test_empty_surface_and_missing_house_are_errors(tmp_path: Path):
    with pytest.raises(ValueError, match="no view"):
        SurfaceBuilder().finish()
    with pytest.raises(AssetError, match=r"scene\.json"):
        load_house(tmp_path)


def test_bag_round_trip(tmp_path: Path):
    rng = np.random.default_rng(0)
    color = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    depth = rng.uniform(0.4, 5.0, (48, 64)).astype(np.float32)
    depth[:5] = 0
    mount = np.eye(4)
    mount[2, 3] = 1.2
    with BagWriter(tmp_path / "bag", INTRINSICS, mount) as writer:
        writer.write_static(10.0)
        writer.write_pose(10.0, np.eye(4), np.zeros(3))
        writer.write_images(10.0, color, depth)
    with AnyReader([tmp_path / "bag"]) as reader:
        found = {c.topic: reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()}
    packed = found["/camera/depth/image_raw/compressedDepth"]
    assert packed.format == "16UC1; compressedDepth png"
    decoded = cv2.imdecode(np.frombuffer(packed.data.tobytes()[12:], np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded.dtype == np.uint16
    np.testing.assert_allclose(decoded / 1000.0, depth, atol=5.1e-4)
    back = cv2.imdecode(found["/camera/color/image_raw/compressed"].data, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - color).mean() < 8
    np.testing.assert_allclose(found["/camera/color/camera_info"].k.reshape(3, 3), INTRINSICS.matrix)
    chain = found["/tf_static"].transforms
    assert [t.child_frame_id for t in chain] == ["camera_link", "camera_color_optical_frame"]
    assert found["/odom"].header.frame_id == "odom" and found["/odom"].child_frame_id == "base_link"
