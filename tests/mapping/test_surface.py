"""What a frame says of the surface, against closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from bodies import CAMERA, make_frame, moved, plane_depth, rays

from chorus_core.config import MapConfig
from chorus_core.mapping.surface import DeviceFrame, choose_stride, measure

CONFIG = MapConfig()
CPU = torch.device("cpu")


def measure_frame(frame, config: MapConfig = CONFIG, stride: int = 1, phase: int = 0):
    return measure(DeviceFrame.upload(frame, CPU), config, stride, phase)


def test_points_are_the_back_projection_in_the_world() -> None:
    pose = moved(0.3, -0.2, 1.0, yaw=0.4)
    normal, offset = np.array([0.2, 0.1, 0.97]) / np.linalg.norm([0.2, 0.1, 0.97]), 3.0
    depth = plane_depth(pose, normal, offset)
    pixels = measure_frame(make_frame(depth, pose=pose))
    assert len(pixels.points) == depth.size
    expected = (rays(CAMERA) * depth[..., None]).reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]
    assert np.allclose(pixels.points.numpy(), expected, atol=1e-4)
    assert np.abs(pixels.points.numpy() @ normal - offset).max() < 1e-4


def test_normals_of_a_plane_face_the_camera() -> None:
    normal = np.array([0.3, -0.2, 1.0]) / np.linalg.norm([0.3, -0.2, 1.0])
    depth = plane_depth(np.eye(4), normal, 2.0)
    pixels = measure_frame(make_frame(depth))
    inner = np.zeros(depth.shape, bool)
    inner[1:-1, 1:-1] = True
    found = pixels.normals.numpy()[inner.ravel()]
    assert np.degrees(np.arccos(np.clip(found @ -normal, -1, 1))).max() < 0.2
    assert (np.einsum("ij,ij->i", pixels.points.numpy(), pixels.normals.numpy()) < 0).all()


def test_weights_fall_with_the_square_of_depth_and_footprints_grow_with_it() -> None:
    near, far = (measure_frame(make_frame(z), stride=2) for z in (0.5, 4.0))
    assert torch.allclose(near.weights, torch.ones_like(near.weights))
    assert torch.allclose(far.weights, torch.full_like(far.weights, 1 / 16))
    assert torch.allclose(far.footprints, torch.full_like(far.footprints, 4.0 * 2 / CAMERA.fx))


def test_flying_pixels_between_two_surfaces_are_dropped() -> None:
    depth = np.full((120, 160), 1.0)
    depth[:, 80:] = 3.0
    depth[:, 80] = 2.0  # in the air
    pixels = measure_frame(make_frame(depth))
    in_air = (pixels.points[:, 2] - 2.0).abs() < 0.5
    assert in_air.sum() <= 2, "the first and last row have no neighbours to tell"
    assert len(pixels.points) >= depth.size - depth.shape[0]


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("height", [0.15, 0.3, 1.2])
def test_a_floor_seen_at_a_grazing_angle_is_kept_with_its_normal(height: float, stride: int) -> None:
    """A low robot's floor is as steep in the image as a flying pixel, but it is a plane."""
    down = np.array([0.0, 1.0, 0.0])
    depth = plane_depth(np.eye(4), down, height)
    rng = np.random.default_rng(0)
    noisy = depth * (1 + rng.normal(0, 0.002, depth.shape))
    pixels = measure_frame(make_frame(noisy), stride=stride)
    z = depth[::stride, ::stride]
    in_range = int(((z > CONFIG.depth_min + 0.1) & (z < CONFIG.depth_max - 0.1)).sum())
    assert len(pixels.points) > 0.9 * in_range
    exact = measure_frame(make_frame(depth), stride=stride)
    width = z.shape[1]  # all but the first and last row and column, which know no normal
    angles = np.degrees(np.arccos(np.clip(exact.normals.numpy() @ -down, -1, 1)))
    assert (angles < 1.0).mean() > 1 - (2 * width + 2 * z.shape[0]) / len(angles)


def test_range_limits_are_kept() -> None:
    depth = np.tile(np.linspace(0.05, 8.0, 160), (120, 1))
    z = measure_frame(make_frame(depth)).points[:, 2]
    assert z.min() > CONFIG.depth_min
    assert z.max() < CONFIG.depth_max


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_all_phases_of_a_stride_together_cover_every_pixel_once(stride: int) -> None:
    frame = make_frame(2.0)
    seen = np.zeros((120, 160), int)
    for phase in range(stride * stride):
        points = measure_frame(frame, stride=stride, phase=phase).points.numpy()
        u = np.round(points[:, 0] / 2.0 * CAMERA.fx + CAMERA.cx).astype(int)
        v = np.round(points[:, 1] / 2.0 * CAMERA.fy + CAMERA.cy).astype(int)
        np.add.at(seen, (v, u), 1)
    assert (seen == 1).all()


@pytest.mark.parametrize(("depth", "voxel", "expected"), [(1.0, 0.04, 1), (0.5, 0.1, 8), (1.0, 0.1, 4), (3.0, 0.02, 1)])
def test_chosen_stride_keeps_three_pixels_a_voxel(depth: float, voxel: float, expected: int) -> None:
    config = dataclasses.replace(CONFIG, voxel_size=voxel)
    assert choose_stride(np.full((120, 160), depth), CAMERA, config) == expected
    assert choose_stride(np.full((120, 160), depth), CAMERA, dataclasses.replace(config, stride=3)) == 3


def test_stride_of_an_empty_depth_is_one() -> None:
    assert choose_stride(np.zeros((120, 160)), CAMERA, CONFIG) == 1


def test_upload_copies() -> None:
    """Arrays of ROS messages are read-only and reused: nothing may alias them."""
    frame = make_frame(1.0)
    uploaded = DeviceFrame.upload(frame, CPU)
    frame.depth[:] = 2.0
    frame.color[:] = 0
    assert (uploaded.depth == 1.0).all()
    assert (uploaded.color > 0).all()


def test_smallest_images_are_measured() -> None:
    camera = CAMERA.scaled(2, 2)
    pixels = measure_frame(make_frame(1.0, camera=camera))
    assert len(pixels.points) == 4
    assert torch.isfinite(pixels.normals).all()
