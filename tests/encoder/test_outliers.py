"""Gaussians that no surface has."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.encoder.outliers import inliers, lone, within_reach
from chorus_core.gaussians import Gaussians


def make(means: torch.Tensor, sizes: torch.Tensor) -> Gaussians:
    count = len(means)
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
    scales = sizes[:, None] * torch.tensor((0.1, 1.0, 0.5))
    return Gaussians(means, quats, scales, torch.ones(count), torch.ones(count, 3))


def surface(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 3, generator=rng) * torch.tensor((2.0, 2.0, 0.01))
    return means, 0.02 * torch.exp(0.3 * torch.randn(count, generator=rng))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(0, 1000))
def test_as_defined(count: int, seed: int) -> None:
    means, sizes = surface(count, seed)
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, count, rng.integers(0, 5)):
        sizes[place] = float(rng.choice([0.05, 0.5, 5.0, 20.0]) * rng.uniform(1.0, 1.1))  # which of equal ones is open
        means[place, 2] = float(rng.uniform(0, 3))
    size = sizes.double().numpy()
    log = np.log(size)
    excess = log - np.sort(log)[(count - 1) // 2]  # torch's median is the lower one
    mad = max(np.sort(np.abs(excess))[(count - 1) // 2], 0.1)
    expected = (excess <= 5 * mad + 1e-9) & (size <= 10)
    for place in np.argsort(-size, kind="stable")[: max(1, round(0.005 * count))]:
        radius = min(0.25 * np.sqrt(size[place]), 2.0)
        distances = np.linalg.norm((means - means[place]).double().numpy(), axis=1)
        expected[place] &= (distances <= radius).sum() - 1 >= 3
    assert np.array_equal(inliers(make(means, sizes)).numpy(), expected)


def test_a_clean_surface_stays_and_what_floats_or_bursts_goes() -> None:
    means, sizes = surface(2000, 0)
    assert inliers(make(means, sizes)).float().mean() > 0.99
    odd = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 2.0]])
    kept = inliers(make(torch.cat((means, odd)), torch.cat((sizes, torch.tensor([3.0, 0.06])))))
    assert not kept[-2], "blown up"
    assert not kept[-1], "alone"


def test_none_at_all() -> None:
    assert inliers(make(torch.zeros(0, 3), torch.zeros(0))).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300), st.integers(0, 1000), st.sampled_from([0.5, 3.0, 1e4, 1e20]))
def test_lone_as_defined(count: int, seed: int, spread: float) -> None:
    points = np.random.default_rng(seed).normal(size=(count, 3))
    points[count // 2 :] *= spread
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    expected = (distances <= 0.5).sum(axis=1) - 1 < 3
    assert np.array_equal(lone(torch.from_numpy(points), 0.5).numpy(), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.floats(0.1, 50))
def test_reach_keeps_the_most(along: list[float], reach: float) -> None:
    points = np.zeros((len(along), 3))
    points[:, 1] = along
    inside = within_reach(torch.from_numpy(points), reach).numpy()
    assert np.ptp(points[inside, 1]) <= reach + 1e-9
    assert inside.sum() == max(((points[:, 1] >= low) & (points[:, 1] <= low + reach)).sum() for low in along)


def test_reach_of_a_scene_with_some_far_away() -> None:
    points = torch.rand(100, 3, generator=torch.Generator().manual_seed(0))
    points[3, 0], points[50], points[99, 2] = 1e4, torch.tensor((1e20, -1e20, 3e38)), -2e7
    assert (~within_reach(points, 1300.0)).nonzero().squeeze(1).tolist() == [3, 50, 99]
    assert within_reach(points[:0], 1300.0).shape == (0,)
