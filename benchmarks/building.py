"""A synthetic building: an RGB-D drive down a hall with pillars, and the surfaces of rooms to fill a map with.

Everything is analytic (ray against box), so that it needs no data and is the same everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals
from chorus_core.stamps import nanoseconds

Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Lower and upper corner, metres."""

HALL: Box = ((-3.0, -1.3, 0.0), (60.0, 1.3, 2.4))
"""Lower and upper corner of the hall the camera drives along +x, metres."""
CAMERA = CameraIntrinsics(525.0, 525.0, 319.5, 239.5, 640, 480)


def drive(
    count: int, rate: float = 30.0, speed: float = 0.6, seed: int = 0, camera: CameraIntrinsics = CAMERA
) -> list[RgbdFrame]:
    """Frames of a robot that drives down the hall while it looks from side to side.

    Depth carries the noise of structured light (standard deviation 1.2 mm at 1 m, growing with the square of depth)
    and is rounded to millimetres; 2 % of the pixels have none.

    Args:
        count: frames.
        rate: frames a second.
        speed: metres a second.
    """
    rng = np.random.default_rng(seed)
    boxes = _obstacles()
    frames = []
    for i in range(count):
        t = i / rate
        pose = look((speed * t, 0.25 * np.sin(0.5 * t), 1.2), yaw=0.5 * np.sin(0.6 * t), pitch=-0.15)
        depth, color = cast(camera, pose, boxes)
        noise = rng.standard_normal(depth.shape, dtype=np.float32) * 0.0012 * depth**2
        depth = np.round((depth + noise) * 1000.0) / 1000.0
        depth[rng.random(depth.shape) < 0.02] = 0.0
        frames.append(RgbdFrame(color, depth.astype(np.float32), camera, pose, nanoseconds(t)))
    return frames


def rooms(count: int, origin: tuple[float, float, float], voxel: float, seed: int = 0) -> Gaussians:
    """About ``count`` Gaussians, one a voxel, on floors, ceilings and walls of rooms of 4 x 4 x 2.4 m side by side.

    Args:
        origin: lower corner of the first room, metres; the others follow along +x and +y.
        voxel: edge of a voxel, metres.
    """
    generator = torch.Generator().manual_seed(seed)
    side, height = 4.0, 2.4
    across, up = round(side / voxel), round(height / voxel)
    per_room = 2 * across * across + 2 * across * up
    number = -(-count // per_room)
    per_row = max(int(number**0.5), 1)
    parts = []
    for room in range(number):
        corner = torch.tensor(origin) + side * torch.tensor([room % per_row, room // per_row, 0.0])
        i, j = torch.meshgrid(torch.arange(across), torch.arange(across), indexing="ij")
        p, q = torch.meshgrid(torch.arange(across), torch.arange(up), indexing="ij")
        zero, flat = torch.zeros_like(i), torch.zeros_like(p)
        surfaces = (
            (torch.stack((i, j, zero), -1), (0.0, 0.0, 1.0)),
            (torch.stack((i, j, zero + up), -1), (0.0, 0.0, -1.0)),
            (torch.stack((p, flat, q), -1), (0.0, 1.0, 0.0)),
            (torch.stack((flat, p, q), -1), (1.0, 0.0, 0.0)),
        )
        for cells, normal in surfaces:
            points = corner + (cells.reshape(-1, 3).float() + 0.5) * voxel
            parts.append((points, torch.tensor(normal).expand_as(points)))
    means = torch.cat([points for points, _ in parts])[:count]
    normals = torch.cat([normal for _, normal in parts])[:count]
    shade = 0.5 + 0.3 * torch.sin(3.0 * means) + 0.1 * torch.randn(means.shape, generator=generator)
    flat_disc = torch.tensor((0.55 * voxel, 0.55 * voxel, 0.15 * voxel)).expand_as(means)
    opacities = torch.full((len(means),), 0.95)
    return Gaussians(means, quats_from_normals(normals), flat_disc.contiguous(), opacities, shade.clamp(0.0, 1.0))


def _obstacles() -> Tensor:
    """Pillars along both walls and boxes on the floor, lower and upper corners [B, 2, 3]."""
    boxes = []
    for k in range(30):
        x = 2.0 * k + 1.0
        side = 0.9 if k % 2 else -0.9
        boxes.append(((x, side - 0.15, 0.0), (x + 0.3, side + 0.15, 2.4)))
        boxes.append(((x + 0.9, -side - 0.3, 0.0), (x + 1.5, -side + 0.25, 0.45 + 0.1 * (k % 4))))
    return torch.tensor(boxes)


def look(position: tuple[float, float, float], yaw: float, pitch: float) -> np.ndarray:
    """world_from_camera of a camera at a position that looks along +x turned by yaw about +z, then raised by pitch."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack((right, down, forward), axis=1)
    pose[:3, 3] = position
    return pose


def cast(camera: CameraIntrinsics, pose: np.ndarray, boxes: Tensor, hall: Box = HALL) -> tuple[np.ndarray, np.ndarray]:
    """z-depth, float32 [H, W], and colour, uint8 [H, W, 3], of a hall and the boxes in it, by the slab method."""
    u, v = torch.meshgrid(torch.arange(camera.width), torch.arange(camera.height), indexing="xy")
    rays = torch.stack(((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, torch.ones_like(u)), -1).float()
    rotation = torch.tensor(pose[:3, :3], dtype=torch.float32)
    origin = torch.tensor(pose[:3, 3], dtype=torch.float32)
    # A ray of z-depth 1: the distance along it, in these units, is the z-depth.
    inverse = 1.0 / (rays.reshape(-1, 3) @ rotation.T + 1e-9)  # [P, 3]
    low, high = torch.tensor(hall)
    depth = torch.maximum((low - origin) * inverse, (high - origin) * inverse).amin(dim=1)  # leaving the hall
    near = ((boxes.mean(dim=1) - origin)[:, :2].norm(dim=1) < 12.0).nonzero().squeeze(1)
    for box in boxes[near]:
        first, second = (box[0] - origin) * inverse, (box[1] - origin) * inverse
        enter, leave = torch.minimum(first, second).amax(dim=1), torch.maximum(first, second).amin(dim=1)
        hit = (enter < leave) & (enter > 0) & (enter < depth)
        depth = torch.where(hit, enter, depth)
    points = origin + depth[:, None] / inverse
    wave = torch.sin(points * 7.0) * torch.sin(points.roll(1, dims=1) * 11.0) + 0.4 * torch.sin(
        points.roll(2, dims=1) * 31.0
    )
    color = ((0.55 + 0.25 * wave).clamp(0, 1) * 255).to(torch.uint8)
    shape = (camera.height, camera.width)
    return depth.reshape(shape).numpy(), color.reshape(*shape, 3).numpy()
