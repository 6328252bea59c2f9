"""A frame is checked once, at construction: each thing that can be wrong is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.frames import CameraIntrinsics, FrameError, RgbdFrame, check_rigid

K = CameraIntrinsics(50.0, 51.0, 15.5, 11.5, 32, 24)


def good() -> dict[str, object]:
    return {
        "color": np.zeros((24, 32, 3), np.uint8),
        "depth": np.ones((24, 32), np.float32),
        "intrinsics": K,
        "world_from_camera": np.eye(4),
        "stamp": 1_500_000_000,
    }


def test_a_good_frame_is_taken_as_it_is() -> None:
    arguments = good()
    frame = RgbdFrame(**arguments)
    assert frame.color is arguments["color"]
    assert frame.depth is arguments["depth"]
    assert frame.stamp == 1_500_000_000


def with_entry(row: int, column: int, value: float) -> np.ndarray:
    pose = np.eye(4)
    pose[row, column] = value
    return pose


BAD = [
    ("color", np.zeros((24, 32), np.uint8), "color"),
    ("color", np.zeros((24, 32, 4), np.uint8), "color"),
    ("color", np.zeros((32, 24, 3), np.uint8), "color"),
    ("color", np.zeros((24, 32, 3), np.float32), "float32"),
    ("depth", np.ones((48, 64), np.float32), "depth"),
    ("depth", np.ones((24, 32, 1), np.float32), "depth"),
    ("depth", np.ones((24, 32), np.uint16), "uint16"),
    ("world_from_camera", np.eye(3), r"world_from_camera of shape \(3, 3\)"),
    ("world_from_camera", np.full((4, 4), np.nan), "world_from_camera has non-finite"),
    ("world_from_camera", with_entry(0, 3, np.inf), "world_from_camera has non-finite"),
    ("world_from_camera", with_entry(0, 0, 2.0), "world_from_camera .* not a rotation"),
    ("world_from_camera", np.diag([1.0, 1.0, -1.0, 1.0]), "det -1.000"),
    ("world_from_camera", np.zeros((4, 4)), "det 0.000"),
    ("world_from_camera", with_entry(3, 0, 0.5), "last row"),
    ("world_from_camera", with_entry(1, 3, -2e5), "within 100000 m of the world's origin"),
    ("stamp", 1.5, "stamp 1.5: expected nanoseconds"),
    ("stamp", float("nan"), "stamp nan"),
    ("stamp", True, "stamp True"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_a_bad_field_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        RgbdFrame(**{**good(), field: value})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, -0.0])
def test_depth_without_meaning_becomes_zero(bad: float) -> None:
    depth = np.full((24, 32), 2.0)
    depth[3, 4] = bad
    frame = RgbdFrame(**{**good(), "depth": depth})
    assert frame.depth.dtype == np.float32
    assert frame.depth[3, 4] == 0.0
    assert (np.delete(frame.depth.ravel(), 3 * 32 + 4) == 2.0).all()
    assert np.array_equal(depth[3, 4], bad, equal_nan=True), "the caller's array is not written to"


INTRINSICS = [
    ({"fx": 0.0}, "fx, fy"),
    ({"fy": -1.0}, "fx, fy"),
    ({"fx": float("nan")}, "nan"),
    ({"cx": float("inf")}, "inf"),
    ({"width": 0}, "0x24"),
    ({"height": -3}, "32x-3"),
]


@pytest.mark.parametrize(("change", "message"), INTRINSICS)
def test_bad_intrinsics_are_named(change: dict[str, float], message: str) -> None:
    values = {"fx": 50.0, "fy": 50.0, "cx": 16.0, "cy": 12.0, "width": 32, "height": 24, **change}
    with pytest.raises(FrameError, match=message):
        CameraIntrinsics(**values)


def test_camera_matrix_comes_back() -> None:
    assert CameraIntrinsics.from_matrix(K.matrix, 32, 24) == K
    with pytest.raises(FrameError, match=r"\(3, 4\)"):
        CameraIntrinsics.from_matrix(np.eye(3, 4), 32, 24)
    with pytest.raises(FrameError, match="fx, fy"):
        CameraIntrinsics.from_matrix(np.zeros((3, 3)), 32, 24)


@given(st.integers(1, 200), st.integers(1, 200))
def test_scaling_keeps_the_viewing_angles_of_the_image_corners(width: int, height: int) -> None:
    scaled = K.scaled(width, height)
    for corner, size, f, c, f2, c2 in (
        (-0.5, -0.5, K.fx, K.cx, scaled.fx, scaled.cx),
        (31.5, width - 0.5, K.fx, K.cx, scaled.fx, scaled.cx),
        (-0.5, -0.5, K.fy, K.cy, scaled.fy, scaled.cy),
        (23.5, height - 0.5, K.fy, K.cy, scaled.fy, scaled.cy),
    ):
        assert (size - c2) / f2 == pytest.approx((corner - c) / f, abs=1e-9)


def test_resizing_never_mixes_depths() -> None:
    depth = np.where(np.arange(32) < 15, 1.0, 3.0) * np.ones((24, 1))
    frame = RgbdFrame(**{**good(), "depth": depth}).resized(13, 11)
    assert frame.color.shape == (11, 13, 3)
    assert set(np.unique(frame.depth)) == {1.0, 3.0}
    assert (frame.intrinsics.width, frame.intrinsics.height) == (13, 11)
    assert frame.resized(13, 11) is frame


@given(st.tuples(*[st.floats(-4, 4)] * 3), st.tuples(*[st.floats(-1e4, 1e4)] * 3))
def test_every_rigid_transform_passes(rotation: tuple[float, ...], translation: tuple[float, ...]) -> None:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(rotation).as_matrix()
    pose[:3, 3] = translation
    assert np.array_equal(check_rigid(pose.astype(np.float64)), pose)
