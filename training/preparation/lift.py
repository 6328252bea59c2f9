"""Teacher features from the images of a scene onto its Gaussians; a view is rasterised once for all teachers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from chorus_core.distillation.lifting import Lifter, add_view, center_contributions
from chorus_core.encoder.inputs import shortest_axes
from chorus_core.gaussians import Gaussians
from chorus_core.rendering import contributions
from chorus_core.teachers.base import FeatureTable, Teacher
from training.datasets.base import PosedImage
from training.preparation.config import LiftConfig
from training.preparation.views import LoadedView, load_views
from training.prepared import LiftedFeatures

_BITS = 63
_SEEN_WEIGHT = 0.05
"""Pixels' worth of a Gaussian that a view must show to have seen it."""


def lift_teachers(
    gaussians: Gaussians,
    views: Sequence[PosedImage],
    teachers: Sequence[Teacher],
    config: LiftConfig | None = None,
    engine: str = "auto",
    progress: bool = False,
) -> dict[str, LiftedFeatures]:
    """What teachers say about each Gaussian: the weighted mean of their features where it shows.

    Nothing touches the disk. Memory is a float32 row of all heads' widths for each Gaussian, on the Gaussians' device.

    Args:
        gaussians: N of them; lifting runs on their device, teachers on theirs.
        views: images with cameras; each is read once.
        teachers: no two with the same head.
        config: image size, images a pass, which pixels count.
        engine: of the renderer, "auto", "torch" or "gsplat".
        progress: show a bar over the images.

    Returns:
        For each head of each teacher its features; Gaussians with too little weight have index -1.

    Raises:
        ValueError: two teachers of one head.
        DatasetError: an image that cannot be used.
    """
    return lift_views(gaussians, views, teachers, config or LiftConfig(), engine, progress).features


@dataclass(frozen=True)
class LiftedViews:
    """What views say of N Gaussians.

    Attributes:
        features: of the teachers, by head.
        normals: shortest axes, turned to the cameras that saw each Gaussian [N, 3].
        seen: bit k tells whether view k saw the Gaussian; of more than 63 views neighbours share one, int64 [N].
    """

    features: dict[str, LiftedFeatures]
    normals: Tensor
    seen: Tensor


@torch.no_grad()
def lift_views(
    gaussians: Gaussians,
    views: Sequence[PosedImage],
    teachers: Sequence[Teacher],
    config: LiftConfig,
    engine: str = "auto",
    progress: bool = True,
) -> LiftedViews:
    """As :func:`lift_teachers`; also the normals, and which views saw each Gaussian."""
    lifters = {head: Lifter(len(gaussians), width, gaussians.device) for head, width in head_widths(teachers).items()}
    towards = torch.zeros_like(gaussians.means)
    seen = torch.zeros(len(gaussians), dtype=torch.int64, device=gaussians.device)
    views_of_bit = max(1, -(-len(views) // _BITS))
    loaded = load_views(views, config.max_width, ahead=2 * config.batch)
    shown = tqdm(total=len(views), desc="lift", unit="image", disable=None if progress else True, leave=False)
    with shown:
        for batch in same_size_batches(loaded, config.batch):
            tables = _tables(batch, teachers)
            for number, item in enumerate(batch):
                weights = contributions(gaussians, item.view, engine)
                weight = torch.zeros_like(gaussians.opacities).index_add_(0, weights.gaussians, weights.weights)
                _look_back(towards, gaussians, weight, item)
                seen |= (weight > _SEEN_WEIGHT).long() << (shown.n // views_of_bit)
                if config.center:
                    weights = center_contributions(weights, gaussians, item.view)
                add_view(lifters, weights, {head: tables[head][number] for head in lifters})
                shown.update()
    features = {head: _lifted(lifter, config.min_weight) for head, lifter in lifters.items()}
    return LiftedViews(features, _normals(gaussians, towards), seen)


def head_widths(teachers: Iterable[Teacher]) -> dict[str, int]:
    """Width of every head that teachers teach.

    Raises:
        ValueError: two of them teach the same head.
    """
    owner: dict[str, str] = {}
    widths: dict[str, int] = {}
    for teacher in teachers:
        for head, width in teacher.heads.items():
            if head in owner:
                raise ValueError(
                    f"head {head!r} is taught by {owner[head]} and by {teacher.name}: expected one teacher"
                )
            owner[head], widths[head] = teacher.name, width
    return widths


def same_size_batches(views: Iterable[LoadedView], size: int) -> Iterator[list[LoadedView]]:
    """Neighbouring views of equal image size, up to ``size`` of them at a time."""
    batch: list[LoadedView] = []
    for item in views:
        if batch and (len(batch) == size or batch[0].color.shape != item.color.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _tables(batch: Sequence[LoadedView], teachers: Sequence[Teacher]) -> dict[str, list[FeatureTable]]:
    """The features of each image of a batch, by head."""
    images = torch.from_numpy(np.stack([item.color for item in batch]))
    return {head: tables for teacher in teachers for head, tables in teacher.tables(images).items()}


def _look_back(towards: Tensor, gaussians: Gaussians, weight: Tensor, item: LoadedView) -> None:
    """Add the direction from each Gaussian to the camera, as much as it shows (weight [N]), to ``towards`` [N, 3]."""
    position = torch.tensor(item.view.world_from_camera[:3, 3], dtype=towards.dtype, device=towards.device)
    towards += torch.nn.functional.normalize(position - gaussians.means, dim=1) * weight[:, None]


def _lifted(lifter: Lifter, min_weight: float) -> LiftedFeatures:
    """The features of the Gaussians that have some."""
    features, valid = lifter.features(min_weight, dtype=torch.float16)
    index = torch.where(valid, valid.cumsum(0) - 1, -1)
    return LiftedFeatures(features[valid], index)


def _normals(gaussians: Gaussians, towards: Tensor) -> Tensor:
    """Each Gaussian's shortest axis, on the side it was seen from [N, 3]."""
    normals = shortest_axes(gaussians)
    return torch.where((normals * towards).sum(dim=1, keepdim=True) < 0, -normals, normals)
