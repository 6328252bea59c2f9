"""Tiny rooms on disk in the layout of ``training.scenes.generate``, and tiny real teachers."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.rendering import View, render
from chorus_core.teachers.base import Teacher
from chorus_core.teachers.embedded import EmbeddedConfig, build_net, write_embedded
from training.preparation.initial import isotropic
from training.scenes.instance import Instance
from training.scenes.scene_file import save_scene

CAMERA = CameraIntrinsics(50.0, 50.0, 31.5, 23.5, 64, 48)


class ColorTeacher(Teacher):
    """Says the mean colour of each patch of 4 x 4 pixels, in [0, 1]."""

    def __init__(self, head: str = "color", name: str = "color") -> None:
        self.name, self.heads = name, {head: 3}
        self.images = 0

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        self.images += len(images)
        pooled = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2).float() / 255.0, 4)
        return {head: pooled.permute(0, 2, 3, 1) for head in self.heads}


def wall_and_floor(seed: int) -> Gaussians:
    """A wall at z = 2 and a floor at y = 0.7 of coloured patches, 10 cm apart."""
    rng = np.random.default_rng(seed)
    u, v = (axis.ravel() for axis in np.meshgrid(np.arange(-1.5, 1.5, 0.1), np.arange(0, 1.5, 0.1)))
    wall = np.stack((u, 0.7 - v, np.full_like(u, 2.0)), axis=1)
    floor = np.stack((u, np.full_like(u, 0.7), 1.95 - v), axis=1)
    points = np.concatenate((wall, floor))
    palette = rng.random((2, 6, 3))
    colors = palette[np.repeat([0, 1], len(u)), (np.floor(points[:, 0] / 0.5).astype(int) + 3) % 6]
    g = isotropic(points, colors)
    g.opacities[:] = 0.98
    g.scales[:] = 0.06
    return g


def poses(count: int) -> list[np.ndarray]:
    """Cameras side by side that look along +z."""
    found = []
    for x in np.linspace(-0.4, 0.4, count):
        pose = np.eye(4)
        pose[0, 3] = x
        found.append(pose)
    return found


def write_room(root: Path, name: str, seed: int, views: int) -> None:
    """``<root>/<name>.npz``, ``.json`` and the folder of views."""
    g = wall_and_floor(seed)
    half = len(g) // 2
    things = [Instance("wall", "", "", (3.0, 1.5, 0.0)), Instance("floor", "", "", (3.0, 0.0, 1.5))]
    root.mkdir(parents=True, exist_ok=True)
    save_scene(root / name, g, np.repeat([0, 1], half), things, {"voxel_size": 0.05, "seed": seed})
    for kind in ("color", "depth", "pose"):
        (root / name / kind).mkdir(parents=True)
    k = {n: getattr(CAMERA, n) for n in ("fx", "fy", "cx", "cy", "width", "height")}
    (root / name / "intrinsics.json").write_text(json.dumps(k))
    for number, pose in enumerate(poses(views)):
        drawn = render(g, View(CAMERA, pose))
        color = (drawn.color.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        depth = np.where(drawn.alpha.numpy() > 0.5, drawn.depth.numpy() * 1000, 0).round().astype(np.uint16)
        cv2.imwrite(str(root / name / "color" / f"{number}.png"), color[..., ::-1])
        cv2.imwrite(str(root / name / "depth" / f"{number}.png"), depth)
        np.savetxt(root / name / "pose" / f"{number}.txt", pose)


def write_teacher(folder: Path, seed: int = 0) -> Path:
    """A random network of the embedded teacher's kind, a few thousand weights."""
    torch.manual_seed(seed)
    config = EmbeddedConfig(
        heads={"lang": 8, "gen": 4}, stem=4, widths=(4, 4, 4, 4), depths=(1, 1, 1, 1), pyramid=8, hidden=8, height=48
    )
    write_embedded(folder, build_net(config), {"name": "tiny"})
    return folder
