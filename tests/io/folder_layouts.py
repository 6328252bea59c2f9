"""Small RGB-D data sets, written in each layout's own form, for the tests of everything that reads folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

COUNT, WIDTH, HEIGHT = 4, 32, 24
INTRINSICS = {"fx": 30.0, "fy": 31.0, "cx": 15.5, "cy": 11.5, "width": WIDTH, "height": HEIGHT}


def color_of(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width, 3), (200, 20 * index, 60), np.uint8)


def depth_of(index: int) -> np.ndarray:
    """Metres; column 0 holds none."""
    depth = np.full((HEIGHT, WIDTH), 1.0 + index, np.float32)
    depth[:, 0] = 0
    return depth


def pose_of(index: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", 10 * index, degrees=True).as_matrix()
    pose[:3, 3] = 0.1 * index, 0, 1
    return pose


def write_color(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100] if path.suffix == ".jpg" else [])


def write_depth(path: Path, metres: np.ndarray, scale: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.round(metres * scale).astype(np.uint16))


def write_pose(path: Path, pose: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, pose)


def write_numbered(folder: Path) -> Path:
    for i in range(COUNT):
        write_color(folder / "color" / f"{2 * i:06d}.jpg", color_of(i))
        write_depth(folder / "depth" / f"{2 * i:06d}.png", depth_of(i), 1000)
        write_pose(folder / "pose" / f"{2 * i:06d}.txt", pose_of(i))
    (folder / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    return folder


def write_seven_scenes(folder: Path) -> Path:
    for i in range(COUNT):
        depth = depth_of(i)
        depth[:, 0] = 65.535
        write_color(folder / f"frame-{2 * i:06d}.color.png", color_of(i))
        write_depth(folder / f"frame-{2 * i:06d}.depth.png", depth, 1000)
        write_pose(folder / f"frame-{2 * i:06d}.pose.txt", pose_of(i))
    return folder


def write_scannet(folder: Path) -> Path:
    for i in range(COUNT):
        write_color(folder / "color" / f"{2 * i}.jpg", color_of(i, 2 * WIDTH, 2 * HEIGHT))
        write_depth(folder / "depth" / f"{2 * i}.png", depth_of(i), 1000)
        write_pose(folder / "pose" / f"{2 * i}.txt", pose_of(i))
    matrix = np.eye(4)
    matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2] = (INTRINSICS[k] for k in ("fx", "fy", "cx", "cy"))
    write_pose(folder / "intrinsic" / "intrinsic_depth.txt", matrix)
    return folder


def write_replica(folder: Path) -> Path:
    for i in range(2 * COUNT - 1):
        write_color(folder / "results" / f"frame{i:06d}.jpg", color_of(i // 2))
        write_depth(folder / "results" / f"depth{i:06d}.png", depth_of(i // 2), 6553.5)
    np.savetxt(folder / "traj.txt", np.array([pose_of(i / 2).reshape(-1) for i in range(2 * COUNT - 1)]))
    camera = {**{k: INTRINSICS[k] for k in ("fx", "fy", "cx", "cy")}, "w": WIDTH, "h": HEIGHT, "scale": 6553.5}
    (folder.parent / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return folder


def write_tum(folder: Path) -> Path:
    """Colour 5 ms after depth; ground truth at other times than either."""
    rgb, depth, truth = ["# color images"], ["# depth maps"], ["# timestamp tx ty tz qx qy qz qw"]
    for i in range(COUNT):
        stamp = 100.0 + i / 15
        write_color(folder / "rgb" / f"{stamp + 0.005:.6f}.png", color_of(i))
        write_depth(folder / "depth" / f"{stamp:.6f}.png", depth_of(i), 5000)
        rgb.append(f"{stamp + 0.005:.6f} rgb/{stamp + 0.005:.6f}.png")
        depth.append(f"{stamp:.6f} depth/{stamp:.6f}.png")
    for index in np.arange(-0.25, COUNT, 0.5):
        pose = pose_of(index)
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        truth.append(f"{100 + index / 15:.6f} {pose[0, 3]} {pose[1, 3]} {pose[2, 3]} {x} {y} {z} {w}")
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "numbered": write_numbered,
    "seven_scenes": write_seven_scenes,
    "scannet": write_scannet,
    "replica": write_replica,
    "tum": write_tum,
}
