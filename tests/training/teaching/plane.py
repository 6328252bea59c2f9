"""A textured plane seen by two cameras: colour and instance of a pixel tell where on the plane it lies."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from chorus_core.frames import CameraIntrinsics
from training.scenes.views import SURFACE

INTRINSICS = CameraIntrinsics(80.0, 80.0, 79.5, 59.5, 160, 120)
SIDE = 3.0
"""Metres from the plane's middle over which colours run from 0 to 255; the plane is z = 0."""
CATEGORIES = ("chair", "table", "lamp", "sofa")
"""Of the quadrants (x > 0) + 2 (y > 0)."""


def pose(x: float, y: float, height: float, tilt: float, spin: float) -> np.ndarray:
    """``world_from_camera`` of a camera that looks down on the plane."""
    down = np.diag([1.0, -1.0, -1.0])
    c, s, ct, st = np.cos(spin), np.sin(spin), np.cos(tilt), np.sin(tilt)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = about_z @ about_x @ down, (x, y, height)
    return found


POSES = (pose(0.1, -0.1, 1.6, 0.1, 0.2), pose(-0.1, 0.15, 1.7, -0.15, 0.5))


def quadrant(points: np.ndarray) -> np.ndarray:
    """Instance of points on the plane [...]."""
    return (points[..., 0] > 0).astype(int) + 2 * (points[..., 1] > 0)


def write_room(folder: Path, name: str, poses: tuple[np.ndarray, ...] = POSES, *, lossless: bool = True) -> Path:
    """A room as ``generate --keep-views`` leaves it: red tells x, green tells y, the instance is the quadrant."""
    stem = folder / name
    for part in ("color", "depth", "pose", "instance"):
        (stem / part).mkdir(parents=True)
    for k, world_from_camera in enumerate(poses):
        v, u = np.mgrid[0 : INTRINSICS.height, 0 : INTRINSICS.width]
        rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(INTRINSICS.matrix).T
        turned = rays @ world_from_camera[:3, :3].T
        depth = -world_from_camera[2, 3] / turned[..., 2]  # where rays meet z = 0; z-depth, as rays have z = 1
        world = turned * depth[..., None] + world_from_camera[:3, 3]
        color = np.zeros((*depth.shape, 3))
        color[..., :2] = (world[..., :2] / SIDE + 1) / 2 * 255
        color[..., 2] = 60 + 45 * quadrant(world)
        bgr = cv2.cvtColor(color.clip(0, 255).round().astype(np.uint8), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(stem / "color" / f"{k}.{'png' if lossless else 'jpg'}"), bgr)
        cv2.imwrite(str(stem / "depth" / f"{k}.png"), np.rint(depth * 1000).astype(np.uint16))
        cv2.imwrite(str(stem / "instance" / f"{k}.png"), (quadrant(world) + 1).astype(np.uint16))
        np.savetxt(stem / "pose" / f"{k}.txt", world_from_camera)
    k = INTRINSICS
    camera = {"fx": k.fx, "fy": k.fy, "cx": k.cx, "cy": k.cy, "width": k.width, "height": k.height}
    (stem / "intrinsics.json").write_text(json.dumps(camera))
    corners = np.stack(np.meshgrid(np.arange(-1.5, 1.5, 0.02), np.arange(-1.5, 1.5, 0.02)), -1).reshape(-1, 2)
    surface = np.concatenate([corners, np.zeros((len(corners), 1))], axis=1)
    np.savez(
        stem / SURFACE, points_mm=np.rint(surface * 1000).astype(np.int16), instance=quadrant(surface).astype(np.int16)
    )
    things = [{"category": c, "object_id": f"made:{c}", "color": "red"} for c in CATEGORIES]
    stem.with_suffix(".json").write_text(json.dumps({"facts": {}, "instances": things}))
    return stem
