"""The ray-cast camera against geometry worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("embreex")

from chorus_core.frames import CameraIntrinsics
from training.scenes import primitives
from training.scenes.camera import SensorModel, camera_pose
from training.scenes.instance import Instance
from training.scenes.render import PointLight, Scene, merge, render_view, to_srgb

INTRINSICS = CameraIntrinsics(80.0, 80.0, 39.5, 29.5, 80, 60)


def room(texture: np.ndarray | None = None, lights: list[PointLight] | None = None) -> Scene:
    """A floor at z = 0 and a box from (2, -0.5, 0) to (3, 0.5, 1)."""
    grey = primitives.plain_texture((0.5, 0.5, 0.5)) if texture is None else texture
    floor = primitives.quad([[-9, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]], grey, 1.0)
    thing = primitives.box((2, -0.5, 0), (3, 0.5, 1), primitives.plain_texture((0.8, 0.1, 0.1)), None)
    names = [Instance("floor", "f", structure=True), Instance("box", "b")]
    identity = np.eye(4)
    return merge([(floor, identity), (thing, identity)], names, np.stack([np.eye(3)] * 2), lights or [], np.ones(3))


def slab_depth(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Analytic depth and instance of ``room`` by plane and slab intersection in float64."""
    k = INTRINSICS
    x, y = np.meshgrid((np.arange(k.width) - k.cx) / k.fx, (np.arange(k.height) - k.cy) / k.fy)
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ pose[:3, :3].T
    eye = pose[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(rays[:, 2] < 0, -eye[2] / rays[:, 2], np.inf)
        at = eye + floor[:, None] * rays
        floor = np.where((np.abs(at[:, :2]) < 9).all(1), floor, np.inf)
        a, b = (np.array([2, -0.5, 0]) - eye) / rays, (np.array([3, 0.5, 1]) - eye) / rays
    enter, leave = np.minimum(a, b).max(1), np.maximum(a, b).min(1)
    thing = np.where((enter < leave) & (enter > 0), enter, np.inf)
    nearest = np.minimum(floor, thing)
    instance = np.where(np.isinf(nearest), -1, np.where(thing < floor, 1, 0))
    return np.where(np.isinf(nearest), 0, nearest).reshape(60, 80), instance.reshape(60, 80)


@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(-1.5, 1.5),
    y=st.floats(-2, 2),
    z=st.floats(0.3, 2.5),
    yaw=st.floats(-1.0, 1.0),
    pitch=st.floats(-1.0, 0.3),
)
def test_depth_and_instance_agree_with_analytic_intersection(x, y, z, yaw, pitch):
    pose = camera_pose(np.array([x, y, z]), yaw, pitch)
    view = render_view(room(), INTRINSICS, pose, np.random.default_rng(0))
    depth, instance = slab_depth(pose)
    same = view.instance == instance
    assert same.mean() > 0.98  # pixels whose ray grazes an edge may fall either way in float32
    near = same & (depth < 30)
    np.testing.assert_allclose(view.depth[near], depth[near], rtol=2e-4, atol=2e-4)


def test_camera_pose_looks_where_it_says():
    pose = camera_pose(np.zeros(3), np.pi / 2, 0.0)
    np.testing.assert_allclose(pose[:3, 2], [0, 1, 0], atol=1e-12)  # forward is +y
    np.testing.assert_allclose(pose[:3, 1], [0, 0, -1], atol=1e-12)  # down is down
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)


def test_textures_are_the_right_way_up_and_round():
    texture = np.zeros((32, 32, 3), np.uint8)
    texture[:16, :16] = (255, 0, 0)  # top left of the image is red
    wall = primitives.quad([[-1, 2, 0], [1, 2, 0], [1, 2, 2], [-1, 2, 2]], texture, None)
    scene = merge([(wall, np.eye(4))], [Instance("wall", "w")], np.eye(3)[None], [], np.ones(3))
    view = render_view(scene, INTRINSICS, camera_pose(np.array([0, 0, 1.0]), np.pi / 2, 0.0), np.random.default_rng(0))
    red = view.color[..., 0] > 120
    red[:, -2:] = False  # the texture repeats: its left edge shows at the right one
    rows, columns = np.nonzero(red)
    assert rows.max() < 31 and columns.max() < 41
    assert red[10, 20]


def test_a_thing_between_light_and_floor_casts_a_shadow():
    lights = [PointLight(np.array([2.5, 0.0, 3.0], np.float32), np.ones(3, np.float32) * 3)]
    scene = room(lights=lights)
    scene.ambient = np.full(3, 0.05)
    pose = camera_pose(np.array([2.5, 4.0, 3.0]), -np.pi / 2, -0.9)
    lit = render_view(scene, INTRINSICS, pose, np.random.default_rng(0), shadow_lights=0)
    shaded = render_view(scene, INTRINSICS, pose, np.random.default_rng(0), shadow_lights=1)
    darker = lit.color.astype(int).sum(-1) - shaded.color.astype(int).sum(-1)
    assert (darker[lit.instance == 0] > 60).any()
    assert (darker >= -1).all()


@given(st.integers(0, 255))
def test_srgb_round_trip(value: int):
    c = value / 255.0
    linear = c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
    assert int(to_srgb(np.array([linear]))[0]) == value


def test_cut_out_texels_are_looked_through():
    holes = np.full((16, 16, 4), 255, np.uint8)
    holes[..., 3] = 0
    screen = primitives.quad([[1, 1, 0], [1, -1, 0], [1, -1, 2], [1, 1, 2]], holes, None)
    wall = primitives.quad([[2, 3, -1], [2, -3, -1], [2, -3, 4], [2, 3, 4]], primitives.plain_texture((1, 1, 1)), None)
    names = [Instance("screen", "s"), Instance("wall", "w")]
    scene = merge([(screen, np.eye(4)), (wall, np.eye(4))], names, np.stack([np.eye(3)] * 2), [], np.ones(3))
    view = render_view(scene, INTRINSICS, camera_pose(np.array([0, 0, 1.0]), 0.0, 0.0), np.random.default_rng(0))
    assert (view.instance == 1).all()
    np.testing.assert_allclose(view.depth, 2.0, atol=1e-3)


def test_depth_noise_grows_with_distance_and_leaves_holes():
    pose = camera_pose(np.array([-3.0, 0, 2.2]), 0.0, -0.45)
    view = render_view(room(), INTRINSICS, pose, np.random.default_rng(0))
    sensor = SensorModel(disparity_step=1 / 64, max_depth=5.0)
    stack = np.stack([sensor.add_noise(view, np.random.default_rng(k))[1] for k in range(30)])
    assert stack.dtype == np.float32 and (stack >= 0).all()
    assert (stack[:, view.depth > 7.5] == 0).mean() > 0.97  # all but pixels jittered onto something near
    floor = (view.instance == 0) & (view.cosine > 0.2) & ((stack > 0).mean(0) > 0.9)
    error = np.where(stack > 0, stack - view.depth, np.nan)
    near, far = floor & (view.depth < 3.2), floor & (view.depth > 4.0)
    assert near.sum() > 20 and far.sum() > 20
    spread = np.where(floor, np.nanstd(np.where(floor, error, 0.0), axis=0), 0.0)
    assert np.median(spread[near]) < 0.018 < np.median(spread[far]) < 0.06
