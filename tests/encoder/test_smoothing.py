"""Smoothing against brute force, and the things it must leave alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.encoder.smoothing import smooth

GRID = 0.05


def brute_force(features: torch.Tensor, points: torch.Tensor, rounds: int) -> torch.Tensor:
    """One voxel after the other, in double precision."""
    cells = [tuple(c) for c in torch.floor(points / GRID).long().tolist()]
    means = {
        c: torch.stack([f.double() for f, d in zip(features, cells, strict=True) if d == c]).mean(0) for c in cells
    }
    now = means
    for _ in range(rounds):
        now = {
            c: torch.stack([v for d, v in now.items() if max(abs(a - b) for a, b in zip(c, d, strict=True)) <= 1]).sum(
                0
            )
            for c in now
        }
    return torch.stack([now[c] / now[c].norm() * means[c].norm() for c in cells])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(0, 1000))
def test_it_is_the_mean_over_neighbouring_voxels(count: int, rounds: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand((count, 3), generator=generator) * 0.4 - 0.2
    features = torch.randn((count, 8), generator=generator)
    torch.testing.assert_close(
        smooth(features, points, GRID, rounds).double(), brute_force(features, points, rounds), atol=1e-4, rtol=1e-4
    )


def test_no_rounds_and_no_points_change_nothing() -> None:
    features, points = torch.randn(5, 4).half(), torch.rand(5, 3)
    assert smooth(features, points, GRID, 0) is features
    assert smooth(features[:0], points[:0], GRID, 2).shape == (0, 4)


def test_free_space_keeps_things_apart_and_lengths_are_kept() -> None:
    """Two sheets three voxels apart, each with a feature of its own and noise on it."""
    x, y = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    sheet = torch.stack((x.flatten(), y.flatten(), torch.zeros(400)), dim=1) * GRID + GRID / 2
    points = torch.cat((sheet, sheet + torch.tensor((0.0, 0.0, 3 * GRID))))
    clean = torch.eye(2).repeat_interleave(400, dim=0)
    noisy = clean + 0.3 * torch.randn((800, 2), generator=torch.Generator().manual_seed(0))
    smoothed = smooth(noisy, points, GRID, 2)
    torch.testing.assert_close(smoothed.norm(dim=1), noisy.norm(dim=1))
    before, after = (torch.cosine_similarity(f, clean, dim=1).mean() for f in (noisy, smoothed))
    assert after > 0.99 > before


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_kind_of_the_features_is_kept(dtype: torch.dtype) -> None:
    features = torch.randn(50, 4).to(dtype)
    assert smooth(features, torch.rand(50, 3), GRID, 2).dtype == dtype
