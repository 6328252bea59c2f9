"""``python -m training.render_house``: the shipped demo, a robot's drive through the AWS small house as a rosbag2."""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from chorus_core.frames import CameraIntrinsics
from training.command_line import run_command
from training.scenes.assets import AssetLibrary, Split
from training.scenes.bag import LINK_FROM_OPTICAL, BagWriter
from training.scenes.camera import SensorModel, free_space
from training.scenes.drive import Drive, DriveLimits, Waypoint, simulate
from training.scenes.house import SurfaceBuilder, load_house, save_ground_truth
from training.scenes.label import LabelView
from training.scenes.render import render_view

logger = logging.getLogger(__name__)

WIDTH, HEIGHT, HORIZONTAL_FOV = 320, 240, 75.0
CAMERA_HEIGHT, CAMERA_PITCH = 1.15, np.deg2rad(-6.0)  # metres, radians (negative looks down)
ROBOT_RADIUS = 0.25
IMAGE_RATE, POSE_RATE = 5.0, 20.0
START = 1_700_000_000.0  # stamp of the first message, seconds

# Bedroom, living room with gym corner, kitchen, and along the television wall.
ROUTE = (
    Waypoint((-4.6, -2.9), (-2.7, -4.8)),
    Waypoint((-5.2, -2.8), (-5.8, -5.5)),
    Waypoint((-6.0, -3.0), (-7.8, -4.6)),
    Waypoint((-5.2, -3.3), (-6.1, -1.6)),
    Waypoint((-3.4, -1.4), (-4.6, 2.4)),
    Waypoint((-4.4, -0.1), (-6.2, 2.2)),
    Waypoint((-6.6, 0.1), (-8.6, 1.9)),
    Waypoint((-6.5, 0.3), (-9.3, 0.2)),
    Waypoint((-6.2, 0.4), (-6.2, -1.4)),
    Waypoint((-4.2, 0.2), (-3.1, 2.6)),
    Waypoint((-2.0, -0.6), (0.3, -1.9)),
    Waypoint((-1.2, 1.4), (-0.5, 4.2)),
    Waypoint((0.9, 2.2), (3.0, 3.2)),
    Waypoint((2.4, 0.9), (0.9, -1.8)),
    Waypoint((4.0, 0.9), (5.2, 3.0)),
    Waypoint((5.0, -0.5), (6.6, 1.0)),
    Waypoint((6.8, -1.0), (8.7, -1.0)),
    Waypoint((6.9, -2.3), (9.0, -3.3)),
    Waypoint((6.4, -3.2), (7.4, -5.3)),
    Waypoint((5.4, -3.1), (5.9, -5.5)),
    Waypoint((4.0, -3.3), (4.2, -5.2)),
    Waypoint((2.7, -3.7), (2.6, -5.3)),
    Waypoint((1.0, -3.75), (0.7, -5.3)),
    Waypoint((-0.9, -3.7), (-1.5, -5.3)),
)


def base_pose(drive: Drive, stamp: float) -> np.ndarray:
    """odom_from_base [4, 4] at a time since the start."""
    xy, yaw = drive.at(stamp)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:2, 3] = xy
    return pose


def base_velocity(drive: Drive, stamp: float, step: float = 0.05) -> np.ndarray:
    """(vx, vy) in base_link and yaw rate, central differences."""
    (before, yaw0), (after, yaw1) = drive.at(stamp - step / 2), drive.at(stamp + step / 2)
    world = (after - before) / step
    yaw = (yaw0 + yaw1) / 2
    forward, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    return np.array([world @ forward, world @ left, (yaw1 - yaw0) / step])


def camera_mount() -> np.ndarray:
    """base_from_link [4, 4]: above the middle of the robot, pitched."""
    c, s = np.cos(-CAMERA_PITCH), np.sin(-CAMERA_PITCH)
    mount = np.eye(4)
    mount[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]  # rotation about y (left): positive looks down
    mount[2, 3] = CAMERA_HEIGHT
    return mount


def contact_sheet(views: list[tuple[np.ndarray, np.ndarray, np.ndarray]], seed: int = 1) -> np.ndarray:
    """Colour, depth and instances of some frames below each other, BGR uint8."""
    palette = np.random.default_rng(seed).integers(40, 255, (256, 3)).astype(np.uint8)
    palette[-1] = 0
    cells = []
    for color, depth, instance in views:
        shade = cv2.applyColorMap((np.clip(depth / 6, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
        shade[depth <= 0] = 0
        cells.append(np.vstack([color[..., ::-1], shade, palette[instance]]))
    rows = [np.hstack(cells[k : k + 4]) for k in range(0, len(cells) - len(cells) % 4, 4)]
    return np.vstack(rows)


def render_house(assets: Path, out: Path, seed: int = 0, sheet: Path | None = None) -> dict:
    """Render the drive and its ground truth into ``out``; returns the ground truth's description."""
    rng = np.random.default_rng(seed)
    scene, names = load_house(assets / "house")
    space = free_space(scene, 0.1, 1.3, ROBOT_RADIUS, rng)
    drive = simulate(space, ROUTE, DriveLimits())
    focal = WIDTH / 2 / np.tan(np.deg2rad(HORIZONTAL_FOV) / 2)
    intrinsics = CameraIntrinsics(focal, focal, (WIDTH - 1) / 2, (HEIGHT - 1) / 2, WIDTH, HEIGHT)
    sensor = SensorModel(depth_strength=0.6, disparity_step=1 / 8, mean_level=140.0)
    base_from_camera = camera_mount() @ LINK_FROM_OPTICAL
    surface = SurfaceBuilder()
    duration = float(drive.stamps[-1])
    logger.info("drive of %.1f s, %.1f m", duration, np.linalg.norm(np.diff(drive.xy, axis=0), axis=1).sum())
    # Poses drift a little against the truth: a slow random walk of millimetres, as good odometry with a map has.
    samples = [k / POSE_RATE for k in range(int(duration * POSE_RATE))]
    every, previews = round(POSE_RATE / IMAGE_RATE), []
    images = len(samples[::every])
    preview_at = set(np.linspace(0, images - 1, 16).round().astype(int).tolist())
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, suffix=".tmp") as temporary:
        bag = Path(temporary) / "bag"
        with (
            BagWriter(bag, intrinsics, camera_mount()) as writer,
            tqdm(total=images, desc="frames", disable=None) as progress,
        ):
            writer.write_static(START)
            for k, stamp in enumerate(samples):
                truth = base_pose(drive, stamp)
                writer.write_pose(START + stamp, _reported(truth, rng), base_velocity(drive, stamp))
                if k % every:
                    continue
                world_from_camera = truth @ base_from_camera
                view = render_view(scene, intrinsics, world_from_camera, rng, flicker=0.25, shadow_lights=3)
                color, depth = sensor.add_noise(view, rng)
                writer.write_images(START + stamp, color, depth)
                surface.add(LabelView(view.depth, view.instance, intrinsics, world_from_camera))
                if k // every in preview_at:
                    previews.append((color, depth, view.instance))
                progress.update()
        target = out / "bag"
        if target.exists():
            shutil.rmtree(target)
        bag.replace(target)
    library = AssetLibrary(assets)
    trained = Split.make(library).trained_categories(library)
    record = save_ground_truth(out, *surface.finish(), scene.instances, names, trained)
    if sheet is not None:
        cv2.imwrite(str(sheet), contact_sheet(previews))
    return record


def _reported(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The base pose as odometry reports it: a millimetre and a twentieth of a degree off."""
    turn = rng.normal(0.0, np.deg2rad(0.05))
    c, s = np.cos(turn), np.sin(turn)
    noise = np.eye(4)
    noise[:2, :2] = [[c, -s], [s, c]]
    noise[:2, 3] = rng.normal(0.0, 0.001, 2)
    return truth @ noise


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--assets", type=Path, required=True, help="asset folder with house/scene.json and manifest.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the sequence")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sensor's noise")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet (PNG) here")
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    record = render_house(a.assets, a.out, a.seed, a.sheet)
    unseen = [i["name"] for i in record["instances"] if i["points"] == 0]
    logger.info("held-back labels: %s", ", ".join(record["held_back_labels"]))
    logger.info("instances never seen: %s", ", ".join(unseen) or "none")


if __name__ == "__main__":
    run_command(main)
