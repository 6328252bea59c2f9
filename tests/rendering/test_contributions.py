"""Pairs of Gaussians and pixels: gsplat's against the torch engine's, through its kernels or their plain twins."""

from __future__ import annotations

import importlib.util

import gsplat_twins
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.rendering import Contributions, View, contributions, gsplat_engine, torch_engine
from chorus_core.rendering.camera import MIN_ALPHA, project
from chorus_core.rendering.compositing import transmittances

CAMERA = CameraIntrinsics(36.0, 37.0, 19.3, 22.1, 41, 46)  # three tiles by three, the last ones cut


def make_view(seed: int = 0) -> View:
    angle = 0.25 * seed
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = (-2.0 * np.sin(angle), 0.1, 2.0 - 2.0 * np.cos(angle))
    return View(CAMERA, pose)


def random_scene(seed: int, count: int = 150) -> Gaussians:
    """Some behind the camera or out of the picture, some invisible, some opaque enough to end a pixel."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=rng) * 0.8 + torch.tensor((0.0, 0.0, 2.0))
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales = torch.exp(torch.empty(count, 3).uniform_(-4.0, -1.6, generator=rng))
    opacities = torch.empty(count).uniform_(-0.1, 1.2, generator=rng).clamp(0.0, 1.0)
    return Gaussians(means, quats, scales, opacities, torch.rand(count, 3, generator=rng))


def dense(c: Contributions, count: int) -> torch.Tensor:
    """Weights [H * W, N]; every pair once."""
    keys = c.pixels * count + c.gaussians
    assert keys.unique().numel() == keys.numel(), "a pair is listed twice"
    matrix = torch.zeros(c.size[0] * c.size[1], count, dtype=torch.float64, device=c.weights.device)
    matrix[c.pixels, c.gaussians] = c.weights.double()
    return matrix


def check_same(found: Contributions, expected: Contributions, count: int) -> None:
    """Pair by pair; rounding at alpha 1/255 or at the end of a pixel may drop a pair and shift those behind it."""
    assert found.size == expected.size
    assert (torch.diff(found.pixels) >= 0).all()
    ours, theirs = dense(expected, count), dense(found, count)
    assert len(expected.pixels) > 1000, "the scene says something"
    lone = (ours > 0) != (theirs > 0)
    assert lone.sum() <= max(2, 1e-4 * len(expected.pixels))
    difference = (ours - theirs).abs()
    assert difference.max() < 1.5 * MIN_ALPHA
    undisturbed = ~lone.any(dim=1)
    assert difference[undisturbed].max() < 1e-4


@pytest.mark.parametrize("pairs", [1, 2**27], ids=["a band a row of tiles", "one band"])
@pytest.mark.parametrize("seed", range(2))
def test_gsplat_lists_the_pairs_of_the_torch_engine(seed: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat_twins.install(monkeypatch)
    monkeypatch.setattr(gsplat_engine, "_MAX_PAIRS", pairs)
    scene, view = random_scene(seed), make_view(seed)
    check_same(gsplat_engine.contributions(scene, view), torch_engine.contributions(scene, view), len(scene))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares gsplat's CUDA kernels: needs CUDA")
@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed")
@pytest.mark.parametrize("pairs", [1, 2**27], ids=["a band a row of tiles", "one band"])
@pytest.mark.parametrize("seed", range(4))
def test_gsplat_on_cuda_lists_the_pairs_of_the_torch_engine(
    seed: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gsplat_engine, "_MAX_PAIRS", pairs)
    scene, view = random_scene(seed, count=400).to("cuda"), make_view(seed)
    expected = contributions(scene, view, engine="torch")
    check_same(contributions(scene, view), expected, len(scene))
    on_cpu = contributions(scene.to("cpu"), view)
    moved = Contributions(on_cpu.pixels.cuda(), on_cpu.gaussians.cuda(), on_cpu.weights.cuda(), on_cpu.size)
    check_same(moved, expected, len(scene))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares gsplat's CUDA kernels: needs CUDA")
@pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed")
def test_gsplat_on_cuda_weighs_as_it_draws() -> None:
    """Weights times values is gsplat's own picture, whatever the torch engine says."""
    scene, view = random_scene(9, count=400).to("cuda"), make_view(1)
    drawn, alpha, _ = gsplat_engine.rasterize(scene, scene.colors, view)
    matrix = dense(contributions(scene, view), len(scene))
    assert torch.allclose(matrix.sum(1), alpha.flatten().double(), atol=1e-4)
    assert torch.allclose(matrix @ scene.colors.double(), drawn.flatten(0, 1).double(), atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_weights_from_indices_are_those_of_the_torch_engine(seed: int) -> None:
    scene, view = random_scene(seed, count=300), make_view(seed)
    expected = torch_engine.contributions(scene, view)
    splats = project(scene, view)
    found = gsplat_engine.pair_weights(
        expected.pixels, expected.gaussians, splats.centers, splats.conics, scene.opacities, CAMERA.width
    )
    assert torch.allclose(found, expected.weights, rtol=1e-4, atol=1e-8)


@given(
    st.lists(st.lists(st.floats(0.004, 0.999), min_size=1, max_size=6), min_size=1, max_size=30),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_transmittance_is_the_product_over_the_pixels_run(runs: list[list[float]], seed: int) -> None:
    numbers = np.random.default_rng(seed).permutation(1000)[: len(runs)]
    pixels = torch.tensor(np.repeat(numbers, [len(run) for run in runs]))
    alphas = torch.tensor([alpha for run in runs for alpha in run], dtype=torch.float32)
    expected = np.concatenate([np.cumprod([1.0, *(1.0 - np.float32(run).astype(np.float64))])[:-1] for run in runs])
    assert np.allclose(transmittances(pixels, alphas).numpy(), expected, rtol=1e-5, atol=0)


@given(st.lists(st.integers(0, 4000), min_size=1, max_size=40), st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_bands_cover_every_row_of_tiles_once(crossings: list[int], width: int) -> None:
    bands = list(gsplat_engine._bands(np.concatenate(([0], np.cumsum(crossings))).tolist(), width))
    assert [row for first, last in bands for row in range(first, last)] == list(range(len(crossings)))


def test_bands_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gsplat_engine, "_MAX_PAIRS", 3 * 256)
    assert list(gsplat_engine._bands([0, 1, 3, 4, 9, 9, 10], 640)) == [(0, 2), (2, 3), (3, 4), (4, 6)]
    # A pixel holds so many Gaussians at the most, however many cross its tile.
    monkeypatch.setattr(gsplat_engine, "_MAX_PAIRS", 2 * 16 * 16 * gsplat_engine._MAX_LAYERS)
    assert list(gsplat_engine._bands([0, 10**6, 2 * 10**6, 3 * 10**6], 16)) == [(0, 2), (2, 3)]


def test_views_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gsplat_twins.install(monkeypatch)
    away = make_view()
    away.world_from_camera[:3, 3] = (0.0, 0.0, 100.0)
    for scene in (Gaussians.empty(), random_scene(0)):
        for module in (gsplat_engine, torch_engine):
            found = module.contributions(scene, away)
            assert found.pixels.numel() == found.gaussians.numel() == found.weights.numel() == 0
            assert found.pixels.dtype == found.gaussians.dtype == torch.int64
            assert found.size == (CAMERA.height, CAMERA.width)


def test_bad_engines_are_named() -> None:
    with pytest.raises(ValueError, match="'opengl'"):
        contributions(random_scene(0), make_view(), engine="opengl")
    with pytest.raises(ValueError, match="CUDA"):
        contributions(random_scene(0), make_view(), engine="gsplat")
