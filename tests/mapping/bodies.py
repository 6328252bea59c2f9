"""Synthetic frames of simple bodies, computed in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_core.stamps import nanoseconds

CAMERA = CameraIntrinsics(130.0, 131.0, 79.5, 59.5, 160, 120)


def rays(camera: CameraIntrinsics) -> np.ndarray:
    """Directions of z-depth 1 through every pixel, camera frame, float64 [H, W, 3]."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return np.stack(((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u, dtype=float)), axis=-1)


def make_frame(
    depth: np.ndarray | float,
    color: np.ndarray | tuple[int, int, int] = (120, 130, 140),
    pose: np.ndarray | None = None,
    stamp: float = 0.0,
    camera: CameraIntrinsics = CAMERA,
) -> RgbdFrame:
    """A frame of a depth and a colour, each an image or one value for all pixels; its stamp in seconds."""
    shape = (camera.height, camera.width)
    depth = np.broadcast_to(np.asarray(depth, dtype=np.float32), shape).copy()
    color = np.broadcast_to(np.asarray(color, dtype=np.uint8), (*shape, 3)).copy()
    return RgbdFrame(color, depth, camera, np.eye(4) if pose is None else pose, nanoseconds(stamp))


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """world_from_camera of a camera moved in its own axes and turned about its y axis, float64 [4, 4]."""
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    pose[:3, 3] = (x, y, z)
    return pose


def plane_depth(pose: np.ndarray, normal: np.ndarray, offset: float, camera: CameraIntrinsics = CAMERA) -> np.ndarray:
    """z-depth of the world plane ``normal . p = offset``, 0 where it is not met [H, W]."""
    directions = rays(camera) @ pose[:3, :3].T
    along = directions @ normal
    z = (offset - pose[:3, 3] @ normal) / np.where(np.abs(along) < 1e-9, np.nan, along)
    return np.where(z > 0, z, 0.0)


def sphere_depth(pose: np.ndarray, centre: np.ndarray, radius: float, camera: CameraIntrinsics = CAMERA) -> np.ndarray:
    """z-depth of the near side of a sphere, 0 beside it [H, W]."""
    directions = rays(camera) @ pose[:3, :3].T
    away = pose[:3, 3] - centre
    a, b, c = (directions**2).sum(-1), directions @ away, away @ away - radius**2
    discriminant = b * b - a * c
    return np.where(discriminant > 0, (-b - np.sqrt(np.maximum(discriminant, 0))) / a, 0.0)


ROOM = ((-3.0, -2.5, 0.0), (3.0, 2.5, 2.6))
"""Lower and upper corner of a room, z up, metres."""
FURNITURE = (
    ((1.6, -2.4, 0.0), (2.6, 0.2, 0.8)),
    ((-2.9, 1.0, 0.0), (-1.7, 2.4, 1.9)),
    ((0.2, 1.2, 0.0), (1.5, 2.0, 0.5)),
)

Box = tuple[tuple[float, float, float], tuple[float, float, float]]


def looking(x: float, y: float, yaw: float, z: float = 1.3, pitch: float = -0.2) -> np.ndarray:
    """world_from_camera of a camera in the z-up room that looks along +x turned by yaw, then raised by pitch [4, 4]."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack((right, np.cross(forward, right), forward), axis=1)
    pose[:3, 3] = (x, y, z)
    return pose


def room_depth(pose: np.ndarray, boxes: Sequence[Box] = FURNITURE, camera: CameraIntrinsics = CAMERA) -> np.ndarray:
    """z-depth of the room with boxes in it, by the slab method [H, W]."""
    inverse = 1.0 / (rays(camera) @ pose[:3, :3].T + 1e-12)  # z-depth is the distance along a ray of z-depth 1
    low, high = (np.asarray(corner) - pose[:3, 3] for corner in ROOM)
    depth = np.maximum(low * inverse, high * inverse).min(axis=-1)
    for box in boxes:
        first, second = ((np.asarray(corner) - pose[:3, 3]) * inverse for corner in box)
        enter, leave = np.minimum(first, second).max(axis=-1), np.maximum(first, second).min(axis=-1)
        depth = np.where((enter < leave) & (enter > 0), np.minimum(depth, enter), depth)
    return depth


def room_frame(
    pose: np.ndarray, stamp: float, boxes: Sequence[Box] = FURNITURE, noise: np.random.Generator | None = None
) -> RgbdFrame:
    """A frame of the room; depth noise as of structured light where a generator is given."""
    depth = room_depth(pose, boxes)
    points = (rays(CAMERA) * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]
    color = 127 + 100 * np.sin(3.0 * points + (0.0, 1.0, 2.0))
    if noise is not None:
        depth = depth + noise.normal(size=depth.shape) * 0.0012 * depth**2
    return make_frame(depth, color, pose, stamp)
