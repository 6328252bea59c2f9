"""Small prepared scenes that the evaluation tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from chorus_core.gaussians import Gaussians
from training.prepared import LiftedFeatures, PreparedScene, SceneInfo

MakeScene = Callable[..., PreparedScene]


@pytest.fixture
def make_scene() -> MakeScene:
    def make(
        points: np.ndarray,
        segment: np.ndarray,
        instance: np.ndarray | None = None,
        classes: tuple[str, ...] = (),
        name: str = "scene",
        features: torch.Tensor | None = None,
        voxel_size: float = 0.05,
    ) -> PreparedScene:
        n = len(points)
        means = torch.from_numpy(np.asarray(points, np.float32))
        gaussians = Gaussians(
            means, torch.tensor((1.0, 0, 0, 0)).repeat(n, 1), torch.full((n, 3), 0.02), torch.full((n,), 0.9),
            (means - means.amin(0)) / (means.amax(0) - means.amin(0)).clamp(min=1e-6),
        )  # fmt: skip
        lifted = {} if features is None else {"lang": LiftedFeatures(features.half(), torch.arange(n))}
        return PreparedScene(
            SceneInfo(name, voxel_size, classes),
            gaussians,
            torch.tensor((0.0, 0, 1)).repeat(n, 1),
            torch.from_numpy(np.asarray(segment, np.int64)),
            torch.from_numpy(np.asarray(segment if instance is None else instance, np.int64)),
            lifted,
        )

    return make
