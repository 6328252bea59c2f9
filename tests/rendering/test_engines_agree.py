"""The two engines draw the same: the torch engine is what gsplat is held to, and runs wherever there is no CUDA."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals
from chorus_core.rendering import View, render

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="compares gsplat's CUDA kernels: needs CUDA"),
    pytest.mark.skipif(importlib.util.find_spec("gsplat") is None, reason="gsplat is not installed"),
]

CAMERA = CameraIntrinsics(90.0, 92.0, 48.3, 35.1, 97, 71)

# Both engines drop what is below 1/255 of alpha and stop at 1e-4 of transmittance. Rounding decides on either side of
# these steps: a single pixel may differ by about 1/255 (and, where alpha is at most 0.95, by 1e-4 / 0.05 = 0.002).
WORST_PIXEL = 0.008
MEAN_PIXEL = 5e-5  # measured on an H200: at most 3.6e-5, a hundredth of an 8-bit step


def make_view(seed: int = 0) -> View:
    angle = 0.3 * seed
    pose = np.eye(4)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = (-2.0 * np.sin(angle), 0.1, 2.0 - 2.0 * np.cos(angle))
    return View(CAMERA, pose)


def random_scene(seed: int, count: int = 300) -> Gaussians:
    """A cloud about two metres before the camera, some of it behind the camera or out of the picture."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=rng) * 0.8 + torch.tensor((0.0, 0.0, 2.0))
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales = torch.exp(torch.empty(count, 3).uniform_(-4.5, -1.8, generator=rng))
    opacities = torch.empty(count).uniform_(0.05, 0.95, generator=rng)
    return Gaussians(means, quats, scales, opacities, torch.rand(count, 3, generator=rng))


def surface_scene(seed: int, voxel: float = 0.04) -> Gaussians:
    """Flat discs on a wall with a ball before it, as the map makes them."""
    rng = torch.Generator().manual_seed(seed)
    x, y = torch.meshgrid(torch.arange(-1.2, 1.2, voxel), torch.arange(-1.0, 1.0, voxel), indexing="xy")
    # Tilted: of Gaussians at the very same depth no order is right.
    wall = torch.stack((x, y, 2.5 + 0.11 * x + 0.07 * y), -1).reshape(-1, 3)
    directions = torch.nn.functional.normalize(torch.randn(1500, 3, generator=rng), dim=1)
    ball = directions * 0.4 + torch.tensor((0.1, 0.0, 1.7))
    means = torch.cat((wall, ball))
    normals = torch.cat((torch.tensor((0.0, 0.0, -1.0)).expand_as(wall), directions))
    scales = torch.tensor((0.55 * voxel, 0.55 * voxel, 0.15 * voxel)).repeat(len(means), 1)
    opacities = torch.empty(len(means)).uniform_(0.6, 0.95, generator=rng)
    return Gaussians(means, quats_from_normals(normals), scales, opacities, torch.rand(len(means), 3, generator=rng))


SCENES = [pytest.param(random_scene, seed, id=f"random-{seed}") for seed in range(4)]
SCENES += [pytest.param(surface_scene, seed, id=f"surface-{seed}") for seed in range(2)]


def check_close(name: str, found: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> None:
    difference = (found - expected).abs() / scale
    assert difference.mean() < MEAN_PIXEL, f"{name}: mean difference {difference.mean():.2e}"
    assert difference.max() < WORST_PIXEL, f"{name}: worst pixel differs by {difference.max():.2e}"


@pytest.mark.parametrize(("make_scene", "seed"), SCENES)
def test_images_agree(make_scene, seed: int) -> None:
    scene, view = make_scene(seed).to("cuda"), make_view(seed)
    features = torch.randn(len(scene), 5, generator=torch.Generator().manual_seed(seed)).cuda()
    ours = render(scene, view, features, background=(0.2, 0.4, 0.6), engine="torch")
    theirs = render(scene, view, features, background=(0.2, 0.4, 0.6), engine="gsplat")
    check_close("color", theirs.color, ours.color)
    check_close("alpha", theirs.alpha, ours.alpha)
    check_close("features", theirs.features, ours.features, scale=float(features.abs().max()))
    # Depth and normals are ratios: compared where a pixel is covered enough for the steps above not to be amplified.
    solid = ours.alpha > 0.5
    assert solid.float().mean() > 0.05
    check_close("depth", theirs.depth[solid], ours.depth[solid], scale=float(ours.depth.max()))
    well_defined = solid & ((ours.normals * theirs.normals).sum(-1) > 0)
    assert well_defined.sum() > 0.999 * solid.sum()
    angle = (1.0 - (ours.normals * theirs.normals).sum(-1)[well_defined]).abs()
    assert angle.mean() < 1e-4
    assert angle.quantile(0.999) < 1e-2


@pytest.mark.parametrize(("make_scene", "seed"), SCENES)
def test_gradients_agree(make_scene, seed: int) -> None:
    """Of a random linear functional of colour, alpha, depth sum and features; within the error of float32 atomics."""
    view = make_view(seed)
    rng = torch.Generator().manual_seed(seed)
    base = make_scene(seed).to("cuda")
    features = torch.randn(len(base), 3, generator=rng).cuda()
    weights = [torch.randn(CAMERA.height, CAMERA.width, d, generator=rng).cuda() for d in (3, 1, 3)]
    gradients = {}
    for engine in ("torch", "gsplat"):
        leaves = {
            name: getattr(base, name).clone().requires_grad_()
            for name in ("means", "quats", "scales", "opacities", "colors")
        }
        leaf_features = features.clone().requires_grad_()
        drawn = render(Gaussians(**leaves), view, leaf_features, engine=engine)
        parts = (drawn.color, drawn.alpha[..., None], drawn.features)
        sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True)).backward()
        gradients[engine] = {**{name: leaf.grad for name, leaf in leaves.items()}, "features": leaf_features.grad}
    for name, expected in gradients["torch"].items():
        found = gradients["gsplat"][name]
        if name == "quats":  # the length of a quaternion means nothing; gsplat normalises it, we take it as it is
            found, expected = (g - (g * base.quats).sum(1, keepdim=True) * base.quats for g in (found, expected))
        assert torch.isfinite(found).all()
        error = (found - expected).norm() / expected.norm()
        assert error < 0.01, f"gradient of {name} differs by {error:.2e} of its length"
