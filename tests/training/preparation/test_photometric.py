"""The photometric fit on scenes small enough for the torch renderer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.rendering import View, render
from training.evaluation.recording import psnr
from training.preparation.config import FitConfig
from training.preparation.initial import camera_extent, initial_gaussians, isotropic, points_in_frusta
from training.preparation.photometric import fit, fit_loss
from training.preparation.views import LoadedView

CAMERA = CameraIntrinsics(55.0, 55.0, 31.5, 23.5, 64, 48)
CONFIG = FitConfig(steps=160, cap=90, initial=60, means_lr=2e-3, scales_lr=2e-2, quats_lr=5e-3, colors_lr=3e-2,
                   opacity_reg=1e-3, scale_reg=1e-3, refine_every=20, noise=100.0)  # fmt: skip


def blobs(seed: int, count: int = 40) -> Gaussians:
    """Gaussians in a metre around (0, 0, 2)."""
    rng = torch.Generator().manual_seed(seed)
    means = (torch.rand(count, 3, generator=rng) - 0.5) * torch.tensor((2.0, 1.5, 1.0)) + torch.tensor((0, 0, 2.0))
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales = torch.empty(count, 3).uniform_(0.06, 0.25, generator=rng)
    opacities = torch.empty(count).uniform_(0.6, 0.95, generator=rng)
    return Gaussians(means, quats, scales, opacities, torch.rand(count, 3, generator=rng))


def pictures(g: Gaussians, count: int = 6) -> list[LoadedView]:
    """Views of them from cameras side by side."""
    views = []
    for i, x in enumerate(np.linspace(-0.5, 0.5, count)):
        pose = np.eye(4)
        angle = -0.2 * x / 0.5
        pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        pose[:3, 3] = (x, 0.1 * (-1) ** i, 0)
        view = View(CAMERA, pose)
        drawn = render(g, view)
        color = (drawn.color.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        views.append(LoadedView(str(i), view, color, drawn.depth.numpy()))
    return views


def quality(g: Gaussians, views: list[LoadedView]) -> float:
    drawn = [render(g, v.view).color.detach().clamp(0, 1).numpy() for v in views]
    return float(np.mean([psnr(d, v.color / 255.0) for d, v in zip(drawn, views, strict=True)]))


def perturbed(g: Gaussians, seed: int = 1) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    return Gaussians(
        g.means + 0.08 * torch.randn(g.means.shape, generator=rng),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(len(g), 1),
        torch.full_like(g.scales, 0.12),
        torch.full_like(g.opacities, 0.5),
        (g.colors + 0.2 * torch.randn(g.colors.shape, generator=rng)).clamp(0, 1),
    )


def test_a_fit_raises_psnr_of_views_it_was_given_and_of_one_it_was_not() -> None:
    truth = blobs(0)
    views = pictures(truth, 7)
    start, held_out = perturbed(truth), [views.pop(3)]
    fitted = fit(start, views, CONFIG, seed=0, progress=False)
    assert quality(fitted, views) > quality(start, views) + 6
    assert quality(fitted, held_out) > quality(start, held_out) + 4
    assert len(truth) < len(fitted) <= CONFIG.cap  # MCMC adds Gaussians up to the cap
    torch.testing.assert_close(fitted.quats.norm(dim=1), torch.ones(len(fitted)))
    assert (fitted.quats[:, 0] >= 0).all() and not fitted.means.requires_grad
    assert fitted.opacities.min() > CONFIG.min_opacity and 0 <= fitted.colors.min() <= fitted.colors.max() <= 1


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Gradients of Gaussians that share a pixel are summed in any order by several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_fit_is_repeatable_under_its_seed_and_leaves_the_global_generator_alone(one_thread: None) -> None:
    truth = blobs(2, 15)
    views, config = pictures(truth, 2), replace(CONFIG, steps=30, refine_every=5)
    torch.manual_seed(123)
    first = fit(perturbed(truth), views, config, seed=4, progress=False)
    drawn = torch.rand(3)
    second = fit(perturbed(truth), views, config, seed=4, progress=False)
    other = fit(perturbed(truth), views, config, seed=5, progress=False)
    assert torch.equal(first.means, second.means) and torch.equal(first.opacities, second.opacities)
    assert first.means.shape != other.means.shape or not torch.equal(first.means, other.means)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(123)))


def test_the_depth_term_pulls_gaussians_to_the_measured_surface() -> None:
    wall = isotropic(np.array([[0.0, 0.0, 2.0]]), np.array([[0.5, 0.5, 0.5]]))
    wall.scales[:] = 0.5
    view = pictures(wall, 1)[0]
    view = replace(view, depth=np.full((48, 64), 1.6, np.float32))
    mean = wall.means.clone().requires_grad_()
    moved = Gaussians(mean, wall.quats, wall.scales, wall.opacities.fill_(0.9), wall.colors)
    (fit_loss(moved, view, CONFIG) - fit_loss(moved, view, replace(CONFIG, depth=0.0))).backward()
    assert mean.grad[0, 2] > 0  # downhill is towards the camera
    assert fit_loss(moved, replace(view, depth=None), CONFIG) == fit_loss(moved, view, replace(CONFIG, depth=0.0))


def test_the_fit_begins_on_the_surface_that_depth_shows() -> None:
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-2, 2, 30), np.linspace(-2, 2, 30)))
    truth = isotropic(np.stack((x, y, np.full(900, 2.0)), axis=1), np.full((900, 3), 0.7))
    truth.opacities[:] = 0.95
    views = pictures(truth, 3)
    begun = initial_gaussians(views, 200, seed=0)
    assert len(begun) == 200
    assert (begun.means[:, 2] - 2).abs().max() < 0.3
    assert 0 < begun.scales.max() < 1
    surface = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    without = [replace(v, depth=None) for v in views]
    on_points = initial_gaussians(without, 20, seed=0, surface=surface)
    assert len(on_points) == 20 and np.isin(on_points.means.numpy(), surface).all()


def test_random_points_lie_in_view_with_their_pixels_colours() -> None:
    views = pictures(blobs(0), 3)
    points, colors = points_in_frusta(views, 300, np.random.default_rng(0))
    assert points.shape == colors.shape == (300, 3)
    seen = np.zeros(300, bool)
    for v in views:
        pose = np.linalg.inv(v.view.world_from_camera)
        local = points @ pose[:3, :3].T + pose[:3, 3]
        u, w = (local[:, 0] / local[:, 2] * 55 + 31.5), (local[:, 1] / local[:, 2] * 55 + 23.5)
        ui, wi = np.rint(u).astype(int), np.rint(w).astype(int)
        inside = (local[:, 2] > 0) & (ui >= 0) & (ui < 64) & (wi >= 0) & (wi < 48)
        match = np.zeros(300, bool)
        match[inside] = np.isclose(v.color[wi[inside], ui[inside]] / 255.0, colors[inside]).all(axis=1)
        seen |= match
    assert seen.all()


def test_a_turning_camera_has_an_extent() -> None:
    assert camera_extent(pictures(blobs(0), 1)) == 1.0


@pytest.mark.parametrize("what", ["views", "gaussians"])
def test_nothing_to_fit_is_an_error(what: str) -> None:
    truth = blobs(0)
    views = [] if what == "views" else pictures(truth, 1)
    with pytest.raises(ValueError, match="photometric fit"):
        fit(truth if what == "views" else truth[:0], views, CONFIG, progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat's strategy and renderer need CUDA")
def test_the_fit_with_gsplat_raises_psnr_too() -> None:
    truth = blobs(0)
    views = pictures(truth, 7)
    start, held_out = perturbed(truth), [views.pop(3)]
    fitted = fit(start.to("cuda"), views, CONFIG, seed=0, progress=False).to("cpu")
    assert quality(fitted, views) > quality(start, views) + 6
    assert quality(fitted, held_out) > quality(start, held_out) + 4
