"""``python -m training.scenes.generate``: labelled maps of random rooms, built by the map itself."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from chorus_core.config import MapConfig
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.io.atomic import atomic_path
from chorus_core.mapping import GaussianMap
from chorus_core.stamps import nanoseconds
from training.command_line import run_command
from training.scenes.assets import AssetLibrary, Split, Subset
from training.scenes.camera import SensorModel, random_intrinsics, tour
from training.scenes.compose import compose
from training.scenes.label import LabelView, vote_labels
from training.scenes.render import Scene, render_view
from training.scenes.scene_file import save_scene
from training.scenes.views import save_views

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerateConfig:
    """What is made.

    ``split_seed`` decides what is held back and must be the same for every subset. ``more_assets`` are further
    collections of models.
    """

    assets: Path
    out: Path
    subset: Subset = "train"
    seed: int = 0
    split_seed: int = 0
    voxel_size: tuple[float, float] = (0.02, 0.05)
    views: tuple[int, int] = (30, 60)
    max_gaussians: int = 80_000
    keep_views: bool = False
    more_assets: tuple[Path, ...] = ()


def scan(
    scene: Scene, rng: np.random.Generator, views: int, stamp_step: float = 0.2
) -> tuple[list[RgbdFrame], list[LabelView]]:
    """Noisy frames of a tour through a scene, and the noise-free views with ground truth."""
    intrinsics, sensor = random_intrinsics(rng), SensorModel.sample(rng)
    frames, truth = [], []
    for k, world_from_camera in enumerate(tour(scene, views, rng)):
        view = render_view(scene, intrinsics, world_from_camera, rng)
        color, depth = sensor.add_noise(view, rng)
        noisy_pose = sensor.perturb(world_from_camera, rng)
        frames.append(RgbdFrame(color, depth, intrinsics, noisy_pose, nanoseconds(stamp_step * k)))
        truth.append(LabelView(view.depth, view.instance, intrinsics, world_from_camera))
    return frames, truth


def build_map(frames: list[RgbdFrame], voxel_size: float) -> GaussianMap:
    """The map a robot would have after these frames; on one thread, since the order of Gaussians varies on several."""
    built = GaussianMap(dataclasses.replace(MapConfig(), voxel_size=voxel_size))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for frame in frames:
            built.integrate(frame)
    finally:
        torch.set_num_threads(threads)
    return built


def crop(gaussians: Gaussians, count: int, rng: np.random.Generator) -> Gaussians:
    """The ``count`` Gaussians nearest to a random one in plan (square window, full height), as an encoder's tile is."""
    if len(gaussians) <= count:
        return gaussians
    center = gaussians.means[int(rng.integers(len(gaussians))), :2]
    distance = (gaussians.means[:, :2] - center).abs().amax(dim=1)
    return gaussians[distance.argsort(stable=True)[:count].sort().values]


def generate_scene(config: GenerateConfig, library: AssetLibrary, split: Split, index: int) -> Path:
    """Make and save one scene; the same configuration and index give the same scene."""
    began = time.perf_counter()
    rng = np.random.default_rng([config.seed, index])
    # Validation and test rooms show the models as they are, so that their scores stay comparable.
    scene, rooms = compose(library, split.allowed(config.subset), rng, varied=config.subset == "train")
    frames, truth = scan(scene, rng, int(rng.integers(config.views[0], config.views[1] + 1)))
    voxel = float(np.exp(rng.uniform(*np.log(config.voxel_size))))
    # A map of what two frames saw is a little cleaner than one of what a single frame did: train on both.
    built = build_map(frames, voxel).export(min_hits=int(rng.integers(1, 3)))
    gaussians = crop(built.gaussians, config.max_gaussians, rng)
    labels = vote_labels(gaussians.means.numpy(), truth, len(scene.instances), tolerance=0.02 + voxel)
    facts = {
        "subset": config.subset, "seed": config.seed, "index": index, "voxel_size": round(voxel, 5),
        "rooms": len(rooms), "views": len(frames), "gaussians": len(gaussians),
        "labelled": round(float((labels >= 0).mean()), 4), "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip
    path = config.out / f"{config.subset}_{config.seed:03d}_{index:05d}"
    if config.keep_views:
        save_views(path, frames, truth)
    save_scene(path, gaussians, labels, scene.instances, facts)
    return path


_worker: tuple[GenerateConfig, AssetLibrary, Split]


def _start_worker(config: GenerateConfig) -> None:
    global _worker
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    library = AssetLibrary(config.assets, *config.more_assets)
    _worker = config, library, Split.make(library, config.split_seed)


def _work(index: int) -> Path:
    return generate_scene(*_worker, index)


def write_split(folder: Path, library: AssetLibrary, split: Split) -> None:
    """What is held back, whatever subset is being made.

    ``trained_categories.json`` lists the categories training scenes contain, ``held_back_objects.json`` the models that
    they do not.
    """
    lists = {
        "trained_categories": sorted(split.trained_categories(library)),
        "held_back_objects": sorted(i for i, subset in split.subset_of.items() if subset != "train"),
    }
    for name, values in lists.items():
        with atomic_path(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")


def generate(config: GenerateConfig, scenes: int, workers: int) -> list[Path]:
    """Make ``scenes`` scenes in ``workers`` processes."""
    config.out.mkdir(parents=True, exist_ok=True)
    library = AssetLibrary(config.assets, *config.more_assets)
    write_split(config.out, library, Split.make(library, config.split_seed))
    if workers <= 1:
        _start_worker(config)
        return [_work(k) for k in tqdm(range(scenes), desc="scenes", disable=None)]
    context = multiprocessing.get_context("spawn")  # torch and fork do not mix
    with context.Pool(workers, _start_worker, (config,)) as pool:
        return list(tqdm(pool.imap_unordered(_work, range(scenes)), total=scenes, desc="scenes", disable=None))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="asset folder with manifest.csv")
    parser.add_argument("--more-assets", type=Path, nargs="+", default=(), help="folders of further models")
    parser.add_argument("--out", type=Path, required=True, help="folder the scenes are written to")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train", help="which models may appear")
    parser.add_argument("--scenes", type=int, required=True, help="number of scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random but the split")
    parser.add_argument("--split-seed", type=int, default=0, help="seed of what is held back")
    parser.add_argument(
        "--voxel-size", type=float, nargs=2, default=GenerateConfig.voxel_size, help="finest and coarsest, metres"
    )
    parser.add_argument("--max-gaussians", type=int, default=GenerateConfig.max_gaussians, help="crop of a scene")
    parser.add_argument(
        "--views", type=int, nargs=2, default=GenerateConfig.views, help="fewest and most frames of a tour"
    )
    parser.add_argument(
        "--keep-views", action="store_true", help="write the frames and the labelled surface beside each scene"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    a = parser.parse_args(arguments)
    config = GenerateConfig(
        a.assets, a.out, a.split, a.seed, a.split_seed,
        tuple(a.voxel_size), tuple(a.views), a.max_gaussians, a.keep_views,
        tuple(a.more_assets),
    )  # fmt: skip
    generate(config, a.scenes, a.workers)


if __name__ == "__main__":
    run_command(main)
