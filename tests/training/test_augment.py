"""Augmentation changes where and how a scene is seen, consistently for every Gaussian."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals, rotations_from_quats
from training.augment import AugmentConfig, augment

STILL = AugmentConfig(
    drop=0.0, jitter=0.0, brightness=0.0, contrast=0.0, channel_gain=0.0, color_noise=0.0, grey=0.0, attribute_drop=0.0,
    canonical=0.0,
)  # fmt: skip
"""Nothing but the change of pose and size."""


def make_scene(count: int = 300, seed: int = 0) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=rng) * torch.tensor((2.0, 1.5, 0.7)) + torch.tensor((4.0, -3.0, 1.0))
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales = torch.exp(torch.empty(count, 3).uniform_(-5.0, -2.0, generator=rng))
    opacities, colors = torch.rand(count, generator=rng), torch.rand(count, 3, generator=rng)
    return Gaussians(means, quats, scales, opacities, colors)


def run(scene: Gaussians, config: AugmentConfig, seed: int) -> tuple[Gaussians, torch.Tensor, float]:
    return augment(scene, torch.arange(len(scene)), 0.02, config, torch.Generator().manual_seed(seed))


def covariances(g: Gaussians) -> np.ndarray:
    """World covariance of each Gaussian through scipy, float64 [N, 3, 3]."""
    rotation = Rotation.from_quat(g.quats.double().numpy(), scalar_first=True).as_matrix()
    return np.einsum("nij,nj,nkj->nik", rotation, g.scales.double().numpy() ** 2, rotation)


def linear_map(before: Gaussians, after: Gaussians) -> np.ndarray:
    """The 3 x 3 matrix that took the centred means of one to the means of the other, by least squares."""
    a = before.means.double().numpy()
    solution, *_ = np.linalg.lstsq(a - a.mean(0), after.means.double().numpy(), rcond=None)
    residual = (a - a.mean(0)) @ solution - after.means.double().numpy()
    assert np.abs(residual).max() < 1e-4, "the means were moved by one linear map"
    return solution.T


@pytest.mark.parametrize("seed", range(12))
def test_covariances_follow_the_means(seed: int) -> None:
    """Rotation, mirroring and size, found from the means alone, applied to the covariance matrices."""
    scene = make_scene()
    out, instance, grid_size = run(scene, STILL, seed)
    assert torch.equal(instance, torch.arange(len(scene)))
    m = linear_map(scene, out)
    size = abs(np.linalg.det(m)) ** (1 / 3)
    assert np.allclose(m @ m.T, size**2 * np.eye(3), atol=1e-4), "a similarity"
    assert STILL.scale[0] <= size <= STILL.scale[1]
    assert 0.02 * size * STILL.grid[0] - 1e-6 <= grid_size <= 0.02 * size * STILL.grid[1] + 1e-6
    tilt = math.acos(np.clip(m[2, 2] / size, -1, 1))
    assert tilt <= 2 * STILL.tilt, "up stays up"
    expected = np.einsum("ij,njk,lk->nil", m, covariances(scene), m)
    assert np.abs(covariances(out) - expected).max() < 1e-5 * np.abs(expected).max() + 1e-9
    assert torch.allclose(out.quats.norm(dim=1), torch.ones(len(out)), atol=1e-5)
    assert torch.equal(out.opacities, scene.opacities)
    assert torch.allclose(out.colors, scene.colors, atol=1e-6)


def test_both_hands_and_all_directions_occur() -> None:
    scene = make_scene()
    maps = [linear_map(scene, run(scene, STILL, seed)[0]) for seed in range(40)]
    mirrored = sum(np.linalg.det(m) < 0 for m in maps)
    assert 8 <= mirrored <= 32
    yaw = np.array([math.atan2(m[1, 1], m[0, 1]) for m in maps])
    assert len(np.unique(np.floor(yaw / (math.pi / 2)))) == 4


@pytest.mark.parametrize("seed", range(4))
def test_canonical_discs_keep_their_normals(seed: int) -> None:
    """Discs spun as the map spins them: same covariance, quaternion without rotation about its own axis."""
    scene = make_scene()
    scene.scales[:, 1] = scene.scales[:, 0]
    out, *_ = run(scene, dataclasses.replace(STILL, canonical=1.0), seed)
    m = linear_map(scene, out)
    expected = np.einsum("ij,njk,lk->nil", m, covariances(scene), m)
    assert np.abs(covariances(out) - expected).max() < 1e-4 * np.abs(expected).max()
    assert torch.allclose(out.quats, quats_from_normals(rotations_from_quats(out.quats)[..., 2]), atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_everything_at_once_stays_valid(seed: int) -> None:
    scene = make_scene(2000)
    out, instance, grid_size = run(scene, AugmentConfig(), seed)
    assert len(out) == len(instance)
    assert 0.55 * len(scene) < len(out) <= len(scene)
    assert len(instance.unique()) == len(instance), "each Gaussian keeps its own instance"
    assert all(torch.isfinite(getattr(out, f.name)).all() for f in dataclasses.fields(out))
    for values in (out.colors, out.opacities):
        assert values.min() >= 0
        assert values.max() <= 1
    assert (out.scales > 0).all()
    assert 0.02 * 0.9 <= grid_size <= 0.02 * 1.1 * 1.5


def test_jitter_is_bounded_by_the_voxel() -> None:
    scene = make_scene(5000)
    config = dataclasses.replace(STILL, jitter=0.15, scale=(1.0, 1.0))
    out, *_ = run(scene, config, 3)
    a = scene.means.double().numpy() - scene.means.double().numpy().mean(0)
    solution, *_ = np.linalg.lstsq(a, out.means.double().numpy(), rcond=None)
    noise = out.means.double().numpy() - a @ solution
    assert 0 < noise.std() <= 0.15 * 0.02 * 1.05


def test_crop_takes_the_points_nearest_to_one_of_them() -> None:
    scene = make_scene(1000)
    _, instance, _ = run(scene, dataclasses.replace(STILL, max_points=200), 1)
    assert len(instance) == 200
    plane = scene.means[:, :2].double()
    inside = torch.zeros(1000, dtype=torch.bool)
    inside[instance] = True
    distance = torch.cdist(plane, plane)
    radius = torch.where(inside, distance, 0).amax(1)
    outside = torch.where(inside, math.inf, distance).amin(1)
    assert (radius <= outside).any(), "they are a disc about some point"


def test_a_seed_repeats_itself_and_leaves_the_scene_alone() -> None:
    scene, untouched = make_scene(), make_scene()
    first, second = run(scene, AugmentConfig(), 7), run(scene, AugmentConfig(), 7)
    for f in dataclasses.fields(scene):
        assert torch.equal(getattr(first[0], f.name), getattr(second[0], f.name))
        assert torch.equal(getattr(scene, f.name), getattr(untouched, f.name))
    assert first[2] == second[2]


def test_grey_scenes_are_grey() -> None:
    out, *_ = run(make_scene(), dataclasses.replace(STILL, grey=1.0), 0)
    assert torch.allclose(out.colors, out.colors[:, :1].expand(-1, 3), atol=1e-6)
