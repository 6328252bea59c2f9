"""A tiny encoder and toy rooms for the tests of probes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chorus_core.encoder import ChorusModel, ModelConfig
from chorus_core.gaussians import Gaussians
from training.prepared import PreparedScene, SceneInfo
from training.probes import ProbeConfig

NAMES = ("floor", "box", "ball")


@pytest.fixture
def names() -> tuple[str, ...]:
    return NAMES


@pytest.fixture
def tiny() -> Callable[..., ChorusModel]:
    def make(in_channels: int = 11, stages: int = 2) -> ChorusModel:
        torch.manual_seed(0)
        config = ModelConfig(
            in_channels=in_channels, enc_channels=(16, 24, 32)[:stages], enc_depths=(1, 2, 1)[:stages],
            enc_num_head=(2, 2, 2)[:stages], patch_size=64, heads={"lang": 8}, head_ratio=1, grid_size=0.1,
        )  # fmt: skip
        return ChorusModel(config).eval()

    return make


@pytest.fixture
def small() -> ProbeConfig:
    """A decoder in keeping with the tiny encoder."""
    return ProbeConfig(
        steps=30, batch_scenes=1, batch_rows=512, copies=2, learning_rate=1e-2, block_rate=1e-2, drop_path=0.0,
        decoder_channels=(16, 16), decoder_depths=(1, 1), decoder_heads=(2, 2),
    )  # fmt: skip


@pytest.fixture
def room() -> Callable[..., PreparedScene]:
    def make(seed: int = 0, n: int = 300, name: str = "room") -> PreparedScene:
        """A grey floor, a red box and a blue ball side by side, in random places of their own."""
        rng = torch.Generator().manual_seed(seed)
        segment = torch.arange(n) % 3
        means = torch.rand(n, 3, generator=rng) * torch.tensor((2.0, 2.0, 0.1))
        means[segment == 1] = torch.rand(int((segment == 1).sum()), 3, generator=rng) * 0.5 + torch.tensor(
            (0.2, 0.2, 0.3)
        )
        means[segment == 2] = torch.rand(int((segment == 2).sum()), 3, generator=rng) * 0.5 + torch.tensor(
            (1.2, 1.2, 0.3)
        )
        colors = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])[segment]
        quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=rng), dim=1)
        gaussians = Gaussians(means, quats, torch.full((n, 3), 0.03), torch.full((n,), 0.9), colors)
        normals = torch.nn.functional.normalize(torch.randn(n, 3, generator=rng), dim=1)
        return PreparedScene(SceneInfo(name, 0.1, NAMES), gaussians, normals, segment, segment.clone(), {})

    return make
