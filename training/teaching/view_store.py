"""Rendered views held on the training device, and pairs of augmented views drawn from them."""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from chorus_core.io.documents import read_json
from chorus_core.io.folders import open_numbered_folder
from chorus_core.teachers.embedded import STRIDE
from training.scenes.views import SURFACE, load_instances
from training.teaching.photographic import photographed

logger = logging.getLogger(__name__)

CLOSEST = 0.4
"""Smallest part of an image, along an edge, that is enlarged to the whole: photographs are taken of things."""


@dataclass
class SceneViews:
    """All views of one scene.

    Attributes:
        color: sRGB, uint8 [V, H, W, 3].
        instance: -1 = none, int16 [V, H, W].
        points: world position at the middle of each cell of 4 x 4 pixels, metres, NaN without depth, float16
            [V, H/4, W/4, 3].
        category, color_word: of each instance, "" where unknown [I].
    """

    color: Tensor
    instance: Tensor
    points: Tensor
    category: tuple[str, ...]
    color_word: tuple[str, ...]

    def to(self, device: torch.device) -> SceneViews:
        return SceneViews(
            self.color.to(device), self.instance.to(device), self.points.to(device), self.category, self.color_word
        )


def load_views(stem: Path) -> SceneViews:
    """The views that ``training.scenes.generate --keep-views`` wrote beside the scene ``<stem>.json``."""
    sequence = open_numbered_folder(stem)
    frames = [sequence[i] for i in range(len(sequence))]
    points = np.stack([_cell_points(f.depth, f.intrinsics, f.world_from_camera) for f in frames])
    tree = read_json(stem.with_suffix(".json"))
    return SceneViews(
        torch.from_numpy(np.stack([f.color for f in frames])),
        torch.from_numpy(np.stack(load_instances(stem)).astype(np.int16)),
        torch.from_numpy(points),
        tuple(i["category"] for i in tree["instances"]),
        tuple(i["color"] for i in tree["instances"]),
    )


def _cell_points(depth: np.ndarray, k, world_from_camera: np.ndarray) -> np.ndarray:
    half = STRIDE // 2
    z = depth[half::STRIDE, half::STRIDE]
    v, u = np.mgrid[half : depth.shape[0] : STRIDE, half : depth.shape[1] : STRIDE]
    camera = np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z], axis=-1)
    world = camera @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
    return np.where(z[..., None] > 0, world, np.nan).astype(np.float16)


class ViewStore:
    """Scenes with views of one subset, loaded by threads; a folder that is still being filled can be read again."""

    def __init__(self, folder: Path, subset: str, device: torch.device, threads: int = 2) -> None:
        self.folder, self.subset, self.device = folder, subset, device
        self.scenes: list[SceneViews] = []
        self._seen: set[str] = set()
        self._pool = ThreadPoolExecutor(threads)
        self._loading: list[Future[SceneViews]] = []

    def refresh(self, wait: bool = False) -> int:
        """Start loading what is new, take what is loaded (all of it with ``wait``); how many scenes there are."""
        for surface in sorted(self.folder.glob(f"{self.subset}_*/{SURFACE}")):  # the last file of a scene's views
            stem = surface.parent
            if stem.name not in self._seen and stem.with_suffix(".json").is_file():
                self._seen.add(stem.name)
                self._loading.append(self._pool.submit(load_views, stem))
        done = [f for f in self._loading if wait or f.done()]
        self.scenes += [f.result().to(self.device) for f in done]
        self._loading = [f for f in self._loading if f not in done]
        return len(self.scenes)


@dataclass
class ViewBatch:
    """Pairs of augmented views; views 2i and 2i + 1 show the same scene from near positions.

    Attributes:
        images: sRGB, uint8 [B, H, W, 3].
        instance: of each cell among the instances of the batch, -1 = none, int64 [B, h, w].
        points: world position of each cell, NaN without depth, float32 [B, h, w, 3].
        category, color_word: of the batch's instances [I].
    """

    images: Tensor
    instance: Tensor
    points: Tensor
    category: tuple[str, ...]
    color_word: tuple[str, ...]


def draw_pairs(
    store: ViewStore, pairs: int, seed: tuple[int, ...], device_seed: int, photographic: float = 0.0
) -> ViewBatch:
    """Random pairs of views, each augmented on its own.

    Args:
        photographic: share of images that each fault of cameras and of JPEG is given to.
    """
    host = np.random.default_rng(seed)
    rng = torch.Generator(store.device).manual_seed(device_seed)
    colors, instances, points, category, words = [], [], [], [], []
    for _ in range(pairs):
        scene = store.scenes[int(host.integers(len(store.scenes)))]
        count = scene.color.shape[0]
        first = int(host.integers(count))
        second = min(max(first + int(host.integers(1, 4)) * int(host.choice([-1, 1])), 0), count - 1)
        for view in (first, second):
            colors.append(scene.color[view])
            instance = scene.instance[view].long()
            instances.append(torch.where(instance >= 0, instance + len(category), -1))
            points.append(scene.points[view].float())
        category += scene.category
        words += scene.color_word
    matrices = torch.from_numpy(np.stack([_affine(host) for _ in colors])).to(store.device)
    images, instance, where = _warp(torch.stack(colors), torch.stack(instances), torch.stack(points), matrices)
    images = _recolor(images, rng)
    if photographic:
        images = photographed(images, rng, photographic)
    return ViewBatch(images.round().to(torch.uint8), instance, where, tuple(category), tuple(words))


def plain_views(scene: SceneViews) -> ViewBatch:
    """All views of a scene as they are."""
    half = STRIDE // 2
    instance = scene.instance[:, half::STRIDE, half::STRIDE].long()
    return ViewBatch(scene.color, instance, scene.points.float(), scene.category, scene.color_word)


def _affine(host: np.random.Generator) -> np.ndarray:
    """Zoom, shift, small turn and mirror, from normalised output to normalised input coordinates, float32 [2, 3]."""
    zoom = math.exp(host.uniform(math.log(CLOSEST), math.log(1.3)))  # below one shows a part, enlarged
    angle = host.uniform(-0.15, 0.15)
    slack = max(1.0 - zoom, 0.0)
    mirror = -1.0 if host.uniform() < 0.5 else 1.0
    c, s = zoom * math.cos(angle), zoom * math.sin(angle)
    aspect = 0.75  # of the images; a turn in pixels is a sheared one in normalised coordinates
    shift = host.uniform(-slack, slack, 2)
    return np.array([[mirror * c, -s * aspect, shift[0]], [mirror * s / aspect, c, shift[1]]], np.float32)


def _warp(colors: Tensor, instances: Tensor, points: Tensor, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, and per-cell instance and position, as the affine maps show them."""
    batch, height, width = colors.shape[:3]
    size = [batch, 3, height, width]
    grid = functional.affine_grid(matrices, size, align_corners=False)
    images = functional.grid_sample(
        colors.permute(0, 3, 1, 2).float(), grid, padding_mode="reflection", align_corners=False
    )
    cells = grid[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]  # [B, h, w, 2]
    u = ((cells[..., 0] + 1) * width / 2 - 0.5).round().long()
    v = ((cells[..., 1] + 1) * height / 2 - 0.5).round().long()
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = u.clamp(0, width - 1), v.clamp(0, height - 1)
    rows = torch.arange(batch, device=colors.device)[:, None, None]
    instance = torch.where(inside, instances[rows, v, u], -1)
    position = torch.where(inside[..., None], points[rows, v // STRIDE, u // STRIDE], torch.nan)
    return images.permute(0, 2, 3, 1), instance, position


def _recolor(images: Tensor, rng: torch.Generator) -> Tensor:
    """Random exposure, white balance, contrast, saturation and noise of each image; float, in 0 to 255."""

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        shape = (images.shape[0], 1, 1, channels)
        return low + (high - low) * torch.rand(shape, generator=rng, device=images.device)

    x = images * uniform(0.6, 1.5) * uniform(0.88, 1.12, 3)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.7, 1.3) + mean
    grey = x.mean(dim=3, keepdim=True)
    x = grey + (x - grey) * uniform(0.3, 1.3)
    x = x + torch.randn(x.shape, generator=rng, device=x.device) * uniform(0.0, 10.0)
    return x.clamp(0, 255)
