"""Small prepared scenes, and a tiny recipe to learn them with, for tests of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_core.encoder.model import ModelConfig
from chorus_core.gaussians import Gaussians
from training.augment import AugmentConfig
from training.configs import PretrainConfig, Recipe, TeacherConfig
from training.prepared import InstanceInfo, LiftedFeatures, PreparedScene, SceneInfo, save_prepared

COLORS = ((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9), (0.9, 0.9, 0.1))
"""Of the four classes of :func:`blobs`."""

STILL = AugmentConfig(
    rotate=0.0, tilt_share=0.0, scale=(1.0, 1.0), flip=0.0, grid=(1.0, 1.0), drop=0.0, partial=0.0, jitter=0.0,
    brightness=0.0, contrast=0.0, channel_gain=0.0, color_noise=0.0, grey=0.0, attribute_drop=0.0, canonical=0.0,
)  # fmt: skip
"""No change at all but that scenes are centred."""

TINY = ModelConfig(enc_channels=(16, 32), enc_depths=(1, 1), enc_num_head=(1, 2), patch_size=64, head_ratio=1)


def tiny_recipe(teachers: Sequence[TeacherConfig], model: ModelConfig = TINY, **options: object) -> Recipe:
    """A model that takes a step in milliseconds, with these teachers and options of :class:`PretrainConfig`."""
    config = PretrainConfig(tuple(teachers), **{"drop_path": 0.0, "batch_scenes": 2, **options})
    return Recipe("tiny", model, config).with_teachers(tuple(teachers))


def blobs(
    features: dict[str, Tensor],
    seed: int,
    *,
    classes: Sequence[str] = (),
    each: int = 100,
    noise: float = 0.05,
    name: str = "blobs",
) -> PreparedScene:
    """Four blobs of points on a lattice of 8 cm, so that no two share a voxel of 4 cm; the colour tells the class.

    Args:
        features: for each head a feature each class [4, D]; a Gaussian's is its class's and noise of that deviation.
        classes: names of the four.
    """
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(4), each)
    cells = np.concatenate([rng.permutation(8**3)[:each] for _ in range(4)])
    # Each class has a place of its own: lattices of 64 cm, 96 cm apart.
    lattice = np.stack(np.unravel_index(cells, (8, 8, 8)), axis=1) + np.array([12, 0, 0]) * label[:, None]
    means = torch.from_numpy((lattice + rng.uniform(-0.15, 0.15, lattice.shape)) * 0.08).float()
    count = len(means)
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
    gaussians = Gaussians(
        means, quats, torch.full((count, 3), 0.02), torch.full((count,), 0.9), torch.tensor(COLORS)[label]
    )
    lifted = {}
    for head, table in features.items():
        scatter = torch.from_numpy(rng.normal(size=(count, table.shape[1]))).float() * noise
        rows = torch.nn.functional.normalize(table[label] + scatter, dim=1).half()
        lifted[head] = LiftedFeatures(rows, torch.arange(count))
    segment = torch.from_numpy(label)
    things = tuple(InstanceInfo(c, f"made:{c}", "red") for c in classes)
    info = SceneInfo(name, 0.04, tuple(classes), things)
    return PreparedScene(info, gaussians, torch.tensor((0.0, 0.0, 1.0)).repeat(count, 1), segment, segment, lifted)


def write_blobs(root: Path, features: dict[str, Tensor], counts: dict[str, int], **options: object) -> Path:
    """A prepared data set of so many scenes a subset."""
    seed = 0
    for subset, count in counts.items():
        for k in range(count):
            save_prepared(root / subset / f"scene_{k:02d}", blobs(features, seed, name=f"scene_{k:02d}", **options))
            seed += 1
    return root


def units(seed: int, *shape: int) -> Tensor:
    """Random unit vectors."""
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)
