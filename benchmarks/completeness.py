"""``python -m benchmarks.completeness``: what of a scene is mapped, and what of the map is not there.

A furnished room, analytic, is walked through with few views and with many, with a camera that is exact, real, or bad.
Each map is handed out by three rules: what one frame has seen, what two have, and the map's own. With ``--sequence`` a
recording takes the room's place: all of it, and 18 frames of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from tqdm import tqdm

from benchmarks.building import CAMERA, Box, cast, look
from benchmarks.report import parser, publish
from chorus_core.config import MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.io.rgbd import open_sequence
from chorus_core.mapping import GaussianMap
from chorus_core.mapping.carving import seen_through
from chorus_core.mapping.surface import DeviceFrame
from chorus_core.rendering import View, render

ROOM: Box = ((-3.0, -2.5, 0.0), (3.0, 2.5, 2.6))
FURNITURE: dict[str, tuple[Box, ...]] = {
    "sofa": (((-1.1, -2.4, 0.0), (1.1, -1.5, 0.42)), ((-1.1, -2.45, 0.42), (1.1, -2.2, 0.85))),
    "table": (((-0.5, -0.9, 0.38), (0.6, -0.3, 0.42)), ((0.0, -0.65, 0.0), (0.1, -0.55, 0.38))),
    "shelf": (((2.5, -1.0, 0.0), (2.95, 1.2, 1.9)),),
    "cabinet": (((-2.95, 0.4, 0.0), (-2.3, 2.2, 0.9)),),
    "chair": (((0.9, 1.2, 0.40), (1.35, 1.65, 0.45)), ((1.3, 1.2, 0.45), (1.35, 1.65, 0.95))),
}
HELD_OUT = 12
SIZE = 320, 240
"""Width and height of the views that maps are drawn in."""


@dataclass(frozen=True)
class Walk:
    """Views of a room.

    Attributes:
        views: how many.
        depth_noise: standard deviation at 1 m, metres; it grows with the square of depth.
        pose_noise: standard deviation of a position, metres, and of a rotation, in units of radians a metre.
    """

    views: int
    depth_noise: float
    pose_noise: float


WALKS = {
    "18 views, exact": Walk(18, 0.0, 0.0),
    "18 views, noisy": Walk(18, 0.0015, 0.004),
    "150 views, noisy": Walk(150, 0.0015, 0.004),
    "150 views, very noisy": Walk(150, 0.0045, 0.01),
}


def all_boxes() -> torch.Tensor:
    """Corners of all furniture, metres [B, 2, 3]."""
    return torch.tensor([box for boxes in FURNITURE.values() for box in boxes])


def walk_poses(count: int, phase: float = 0.0) -> list[np.ndarray]:
    """Cameras on an ellipse in the room that look about: over the circle, in all directions."""
    poses = []
    for angle in 2.0 * np.pi * (np.arange(count) + phase) / count:
        position = (1.7 * np.cos(angle), 0.6 + 0.9 * np.sin(angle), 1.4)
        poses.append(look(position, yaw=angle + 2.6 * np.sin(3.0 * angle), pitch=-0.3))
    return poses


def view_room(pose: np.ndarray, stamp: int = 0) -> RgbdFrame:
    """A frame without noise."""
    depth, color = cast(CAMERA, pose, all_boxes(), ROOM)
    return RgbdFrame(color, depth, CAMERA, pose, stamp)


def disturbed(frame: RgbdFrame, walk: Walk, rng: np.random.Generator) -> RgbdFrame:
    """A frame with the noise of a walk: structured light's, of depth that is smooth over a few pixels, and a pose's."""
    if walk.depth_noise == 0.0:
        return frame
    coarse = rng.standard_normal((CAMERA.height // 4, CAMERA.width // 4)).astype(np.float32)
    noise = walk.depth_noise * np.kron(coarse, np.ones((4, 4), np.float32))
    depth = np.round((frame.depth + noise * frame.depth**2) * 1000.0) / 1000.0
    depth[rng.random(depth.shape) < 0.02] = 0.0
    pose = frame.world_from_camera.copy()
    pose[:3, :3] = pose[:3, :3] @ _rotation(rng.normal(0.0, walk.pose_noise, 3))
    pose[:3, 3] += rng.normal(0.0, walk.pose_noise, 3)
    return RgbdFrame(frame.color, depth.astype(np.float32), CAMERA, pose, frame.stamp)


def _rotation(vector: np.ndarray) -> np.ndarray:
    x, y, z = vector
    return torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])).numpy()


def surface_points(frames: Sequence[RgbdFrame], config: MapConfig) -> np.ndarray:
    """One point a voxel of what frames see within the map's range, metres [N, 3]."""
    voxels = []
    for frame in frames:
        camera = frame.intrinsics
        v, u = np.nonzero((frame.depth > config.depth_min) & (frame.depth < config.depth_max))
        z = frame.depth[v, u]
        points = np.stack(((u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z), axis=1)
        points = points @ frame.world_from_camera[:3, :3].T + frame.world_from_camera[:3, 3]
        cells = np.floor(points / config.voxel_size).astype(np.int64)
        voxels.append(points[np.unique(cells, axis=0, return_index=True)[1]])
    points = np.concatenate(voxels)
    return points[np.unique(np.floor(points / config.voxel_size).astype(np.int64), axis=0, return_index=True)[1]]


def distance_to_room(points: np.ndarray) -> np.ndarray:
    """Metres to the nearest wall, floor, ceiling or piece of furniture [N] of points [N, 3]."""
    low, high = np.array(ROOM)
    distance = np.minimum(np.abs(points - low), np.abs(points - high)).min(axis=1)
    for low, high in all_boxes().numpy():
        outside = np.maximum(np.maximum(low - points, points - high), 0.0)
        inside = np.minimum(points - low, high - points).min(axis=1)
        distance = np.minimum(distance, np.where(inside > 0, inside, np.linalg.norm(outside, axis=1)))
    return distance


def rules(built: GaussianMap) -> dict[str, Gaussians]:
    """The map as each rule hands it out."""
    return {
        "one frame": built.export(min_hits=1).gaussians,
        "two frames": built.export(min_hits=2).gaussians,
        "ours": built.export().gaussians,
    }


def mapped(points: np.ndarray, gaussians: Gaussians, reach: float) -> np.ndarray:
    """Which points have a Gaussian within reach, bool [N]."""
    return np.isfinite(cKDTree(gaussians.means.numpy()).query(points, distance_upper_bound=reach, workers=2)[0])


def drawn(gaussians: Gaussians, frames: Sequence[RgbdFrame]) -> dict[str, float]:
    """How well the map draws views: over all pixels, and over its coverage where that is more than a half."""
    rows = []
    for frame in frames:
        frame = frame.resized(*SIZE)
        with torch.inference_mode():
            image = render(gaussians, View(frame.intrinsics, frame.world_from_camera))
        color, alpha, real = image.color.clamp(0, 1), image.alpha, torch.tensor(frame.color) / 255.0
        covered = alpha > 0.5
        divided = (image.color / alpha.clamp(min=1e-3)[..., None]).clamp(0, 1)
        quality = _psnr(color[covered], real[covered]), _psnr(divided[covered], real[covered])
        rows.append([*quality, covered.float().mean()])
    shaded, divided, coverage = np.array(rows, dtype=np.float64).mean(axis=0)
    return {"PSNR, dB": shaded, "divided by alpha, dB": divided, "covered, %": 100 * coverage}


def _psnr(image: torch.Tensor, real: torch.Tensor) -> float:
    return -10.0 * float((image - real).square().mean().clamp(min=1e-10).log10())


def of_the_room(name: str, config: MapConfig, seed: int) -> list[dict[str, Any]]:
    """One row a rule for a walk through the room."""
    walk, rng = WALKS[name], np.random.default_rng(seed)
    built, exact = GaussianMap(config), []
    for number, pose in enumerate(tqdm(walk_poses(walk.views), desc=name, leave=False, disable=None)):
        frame = view_room(pose, number / 5.0)
        if walk.views < 50 or number % 4 == 0:
            exact.append(frame)
        built.integrate(disturbed(frame, walk, rng))
    truth = surface_points(exact, config)
    on_sofa = np.zeros(len(truth), dtype=bool)
    for low, high in np.array(FURNITURE["sofa"]):
        on_sofa |= ((truth > low - 1e-3) & (truth < high + 1e-3)).all(axis=1)
    views = [view_room(pose) for pose in walk_poses(HELD_OUT, phase=0.5)]
    rows = []
    for rule, gaussians in rules(built).items():
        there = mapped(truth, gaussians, 1.5 * config.voxel_size)
        off = distance_to_room(gaussians.means.double().numpy())
        rows.append(
            {"walk": name, "rule": rule, "Gaussians": len(gaussians)}
            | {"mapped, %": 100 * there.mean(), "sofa, %": 100 * there[on_sofa].mean()}
            | {"off by 3 cm, %": 100 * (off > 0.03).mean(), "error p90, mm": 1e3 * np.percentile(off, 90)}
            | drawn(gaussians, views)
        )
    return rows


def of_a_recording(path: Path, views: int, config: MapConfig) -> list[dict[str, Any]]:
    """One row a rule for frames of a recording, evenly spread; frames between them judge.

    Mapped is the share of the surface in the judging frames, off the share of Gaussians that two or more of them see
    through.
    """
    frames = list(open_sequence(path))
    places = np.linspace(0, len(frames) - 1, HELD_OUT + 2).astype(int)[1:-1]
    judges = [frames[place] for place in places]
    others = [frame for place, frame in enumerate(frames) if place not in set(places.tolist())]
    others = [others[i] for i in np.unique(np.linspace(0, len(others) - 1, min(views, len(others))).astype(int))]
    built = GaussianMap(config)
    for frame in others:
        built.integrate(frame)
    truth = surface_points(judges, config)
    rows = []
    for rule, gaussians in rules(built).items():
        there = mapped(truth, gaussians, 2.0 * config.voxel_size)
        through = sum(
            seen_through(gaussians.means, DeviceFrame.upload(frame, built.device), config).int() for frame in judges
        )
        rows.append(
            {"walk": f"{len(others)} of {len(frames)} frames", "rule": rule, "Gaussians": len(gaussians)}
            | {"mapped, %": 100 * there.mean(), "seen through twice, %": 100 * float((through >= 2).float().mean())}
            | drawn(gaussians, judges)
        )
    return rows


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--sequence", type=Path, help="a recording instead of the room")
    options.add_argument("--voxel", type=float, default=0.02, help="metres")
    a = options.parse_args()
    config = MapConfig(voxel_size=a.voxel)
    if a.sequence is not None:
        rows = [row for views in (18, 10_000) for row in of_a_recording(a.sequence, views, config)]
    else:
        rows = [row for name in WALKS for row in of_the_room(name, config, a.seed)]
    publish("What is mapped", rows, torch.device("cpu"), a.out)


if __name__ == "__main__":
    main()
