"""Augmentation changes where and how a scene is seen, consistently for every Gaussian."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals, rotations_from_quats
from training.augment import AugmentConfig, Augmented, augment, rotation_matrix
from training.configs import RELEASE_AUGMENT

STILL = AugmentConfig(
    drop=0.0, partial=0.0, jitter=0.0, brightness=0.0, contrast=0.0, channel_gain=0.0, color_noise=0.0, grey=0.0,
    attribute_drop=0.0, canonical=0.0,
)  # fmt: skip
"""Nothing but the change of pose and size."""
FIXED = dataclasses.replace(STILL, rotate=0.0, tilt_share=0.0, flip=0.0, scale=(1.0, 1.0))
"""Nothing but that the scene is centred."""


def make_scene(count: int = 300, seed: int = 0) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=rng) * torch.tensor((2.0, 1.5, 0.7)) + torch.tensor((4.0, -3.0, 1.0))
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales = torch.exp(torch.empty(count, 3).uniform_(-5.0, -2.0, generator=rng))
    opacities, colors = torch.rand(count, generator=rng), torch.rand(count, 3, generator=rng)
    return Gaussians(means, quats, scales, opacities, colors)


def make_normals(count: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(9)), dim=1)


def run(scene: Gaussians, config: AugmentConfig, seed: int, seen: torch.Tensor | None = None) -> Augmented:
    host, device = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    return augment(scene, make_normals(len(scene)), 0.02, config, host, device, seen)


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
def test_covariances_and_normals_follow_the_means(seed: int) -> None:
    """Rotation, mirroring and size, found from the means alone, applied to covariance matrices and normals."""
    scene = make_scene()
    made = run(scene, STILL, seed)
    out = made.gaussians
    assert torch.equal(made.rows, torch.arange(len(scene)))
    m = linear_map(scene, out)
    assert np.allclose(m @ m.T, made.scale**2 * np.eye(3), atol=1e-4), "a similarity of the scale that it tells"
    assert STILL.scale[0] <= made.scale <= STILL.scale[1]
    tilt = math.acos(np.clip(m[2, 2] / made.scale, -1, 1))
    assert tilt <= 2 * STILL.tilt, "up stays up"
    expected = np.einsum("ij,njk,lk->nil", m, covariances(scene), m)
    assert np.abs(covariances(out) - expected).max() < 1e-5 * np.abs(expected).max() + 1e-9
    turned = make_normals(len(scene)).double().numpy() @ m.T / made.scale
    np.testing.assert_allclose(made.normals.double().numpy(), turned, atol=1e-5)
    assert torch.equal(out.opacities, scene.opacities)
    assert torch.allclose(out.colors, scene.colors, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([0.0, 1.0]))
def test_quaternions_stay_canonical(seed: int, mirrored: bool, canonical: float) -> None:
    """Unit and w >= 0 whatever the turn or mirror, also for input of the other sign."""
    scene = make_scene(64, seed)
    config = dataclasses.replace(STILL, tilt=1.5, flip=float(mirrored), canonical=canonical)
    made = run(scene, config, seed)
    assert (made.gaussians.quats[:, 0] >= 0).all()
    assert torch.allclose(made.gaussians.quats.norm(dim=1), torch.ones(64), atol=1e-5)
    assert torch.allclose(made.normals.norm(dim=1), torch.ones(64), atol=1e-5)
    other = dataclasses.replace(scene, quats=-scene.quats)
    assert torch.allclose(run(other, config, seed).gaussians.quats, made.gaussians.quats, atol=1e-6)
    assert (np.linalg.det(linear_map(scene, made.gaussians)) < 0) == mirrored


def test_both_hands_and_all_directions_occur() -> None:
    scene = make_scene()
    maps = [linear_map(scene, run(scene, STILL, seed).gaussians) for seed in range(40)]
    mirrored = sum(np.linalg.det(m) < 0 for m in maps)
    assert 8 <= mirrored <= 32
    yaw = np.array([math.atan2(m[1, 1], m[0, 1]) for m in maps])
    assert len(np.unique(np.floor(yaw / (math.pi / 2)))) == 4


def test_shares_of_the_release_happen_that_often() -> None:
    """Half the scenes are turned, half mirrored; each tilt on its own."""
    scene = make_scene(30)
    config = dataclasses.replace(RELEASE_AUGMENT, noise_injection=(0.0, 0.0), scale=(1.0, 1.0))
    maps = [linear_map(scene, run(scene, config, seed).gaussians) for seed in range(120)]
    upright = np.mean([abs(m[2, 2] - 1) < 1e-9 or abs(abs(m[2, 2]) - 1) < 1e-7 for m in maps])
    assert upright == pytest.approx(0.25, abs=0.13)
    assert np.mean([np.linalg.det(m) < 0 for m in maps]) == pytest.approx(0.5, abs=0.15)
    turned = np.mean([abs(abs(m[1, 1]) - 1) > 0.02 for m in maps])
    assert turned == pytest.approx(0.5, abs=0.17)


@pytest.mark.parametrize("angles", [(0.3, -0.2, 0.5), (3.0, 1.0, -1.0), (0.0, 0.0, 0.0)])
def test_rotation_matrix_against_scipy(angles: tuple[float, float, float]) -> None:
    yaw, roll, pitch = angles
    expected = Rotation.from_euler("xyz", [roll, pitch, yaw]).as_matrix()  # about fixed axes, x first
    np.testing.assert_allclose(rotation_matrix(yaw, roll, pitch).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_canonical_discs_keep_their_normals(seed: int) -> None:
    """Discs spun as the map spins them: same covariance, quaternion without rotation about its own axis."""
    scene = make_scene()
    scene.scales[:, 1] = scene.scales[:, 0]
    out = run(scene, dataclasses.replace(STILL, canonical=1.0), seed).gaussians
    m = linear_map(scene, out)
    expected = np.einsum("ij,njk,lk->nil", m, covariances(scene), m)
    assert np.abs(covariances(out) - expected).max() < 1e-4 * np.abs(expected).max()
    assert torch.allclose(out.quats, quats_from_normals(rotations_from_quats(out.quats)[..., 2]), atol=1e-4)


@pytest.mark.parametrize("config", [AugmentConfig(), RELEASE_AUGMENT])
@pytest.mark.parametrize("seed", range(4))
def test_everything_at_once_stays_valid(config: AugmentConfig, seed: int) -> None:
    scene = make_scene(2000)
    made = run(scene, config, seed)
    out = made.gaussians
    assert len(out) == len(made.rows) == len(made.normals)
    assert 0.55 * len(scene) < len(out) <= len(scene)
    assert len(made.rows.unique()) == len(made.rows)
    assert all(torch.isfinite(getattr(out, f.name)).all() for f in dataclasses.fields(out))
    for values in (out.colors, out.opacities):
        assert values.min() >= 0
        assert values.max() <= 1
    assert (out.scales > 0).all()
    assert (out.quats[:, 0] >= 0).all()


def test_jitter_is_bounded_by_the_voxel() -> None:
    scene = make_scene(5000)
    out = run(scene, dataclasses.replace(FIXED, jitter=0.15), 3).gaussians
    noise = (out.means - (scene.means - scene.means.mean(0))).numpy()
    assert 0 < noise.std() <= 0.15 * 0.02 * 1.05


def test_noise_is_drawn_within_each_covariance() -> None:
    """Of many copies of one Gaussian: steps of covariance (strength * gate * Sigma) squared, none for opaque ones."""
    copies, strength = 20_000, 3.0
    quat = torch.nn.functional.normalize(torch.tensor([[0.7, -0.3, 0.5, 0.2]]), dim=1)
    config = dataclasses.replace(FIXED, noise_injection=(strength, 1.0))
    for opacity in (0.001, 0.02, 0.9):
        scene = Gaussians(
            torch.zeros(copies, 3), quat.repeat(copies, 1), torch.tensor([[0.3, 0.1, 0.02]]).repeat(copies, 1),
            torch.full((copies,), opacity), torch.full((copies, 3), 0.5),
        )  # fmt: skip
        steps = run(scene, config, 1).gaussians.means.double().numpy()
        gate = strength / (1 + math.exp(-100 * ((1 - opacity) - 0.995)))  # as 3DGS-MCMC has it
        step = gate * covariances(scene)[0]  # of unit noise
        expected = step @ step.T
        np.testing.assert_allclose(np.cov(steps.T), expected, atol=0.04 * np.abs(expected).max() + 1e-12)
    assert np.abs(steps).max() < 1e-4, "an opaque Gaussian stays"


def test_noise_on_unlike_gaussians_against_brute_force() -> None:
    """Each step is its own covariance times one draw of unit noise, which the generator's seed repeats."""
    scene = make_scene(50)
    scene.opacities[:] = torch.linspace(0.0, 0.05, 50)
    made = run(scene, dataclasses.replace(FIXED, noise_injection=(2.0, 1.0)), 5).gaussians
    rng = torch.Generator().manual_seed(5)
    torch.rand(50, generator=rng)  # which Gaussians stay
    unit = torch.randn(50, 3, generator=rng).double().numpy()
    moved = made.means.double().numpy() - (scene.means - scene.means.mean(0)).double().numpy()
    gate = 2.0 / (1 + np.exp(-100 * ((1 - scene.opacities.double().numpy()) - 0.995)))
    expected = np.einsum("nij,nj->ni", covariances(scene), unit * gate[:, None])
    np.testing.assert_allclose(moved, expected, atol=2e-6)


def test_blur_and_attribute_changes() -> None:
    scene = make_scene()
    blurred = run(scene, dataclasses.replace(FIXED, scale_blur=(1.5, 3.0, 1.0)), 0).gaussians
    ratio = blurred.scales / scene.scales
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)
    assert 1.5 <= float(ratio[0, 0]) <= 3.0
    changed = run(scene, dataclasses.replace(FIXED, attribute_drop=1.0), 0).gaussians
    ratio = changed.scales / scene.scales
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)
    order = scene.opacities.clamp(min=0.1).argsort()
    assert (changed.opacities[order].diff() >= -1e-6).all(), "opacities keep their order"


def test_partial_keeps_what_the_chosen_views_saw() -> None:
    """View k saw the k-th part of the scene: what is left is a few whole parts, evenly apart."""
    scene = make_scene(63 * 300)
    part = torch.arange(len(scene)) // 300
    seen = torch.ones(len(scene), dtype=torch.int64) << part
    config = dataclasses.replace(FIXED, partial=1.0, partial_views=(3, 5))
    counts = set()
    for seed in range(12):
        rows = run(scene, config, seed, seen).rows
        kept = part[rows].unique()
        assert torch.equal(rows, torch.isin(part, kept).nonzero().squeeze(1)), "whole parts"
        gaps = torch.cat([kept, kept[:1] + 63]).diff()
        assert gaps.unique().numel() <= 2, "an even stride and the rest of the round"
        counts.add(kept.numel())
    assert counts == {3, 4, 5}


def test_partial_leaves_a_scene_whole_that_the_views_hardly_saw() -> None:
    scene = make_scene(1000)
    config = dataclasses.replace(FIXED, partial=1.0)
    assert len(run(scene, config, 0, torch.zeros(1000, dtype=torch.int64)).rows) == 1000
    assert len(run(scene, config, 0).rows) == 1000, "no record of views"


def test_crop_takes_the_points_nearest_to_one_of_them() -> None:
    scene = make_scene(1000)
    rows = run(scene, dataclasses.replace(STILL, max_points=200), 1).rows
    assert len(rows) == 200
    plane = scene.means[:, :2].double()
    inside = torch.zeros(1000, dtype=torch.bool)
    inside[rows] = True
    distance = torch.cdist(plane, plane)
    radius = torch.where(inside, distance, 0).amax(1)
    outside = torch.where(inside, math.inf, distance).amin(1)
    assert (radius <= outside).any(), "they are a disc about some point"


def test_a_seed_repeats_itself_and_leaves_the_scene_alone() -> None:
    scene, untouched = make_scene(), make_scene()
    first, second, third = (run(scene, AugmentConfig(), seed) for seed in (7, 7, 8))
    for f in dataclasses.fields(scene):
        assert torch.equal(getattr(first.gaussians, f.name), getattr(second.gaussians, f.name))
        assert torch.equal(getattr(scene, f.name), getattr(untouched, f.name))
    assert first.scale == second.scale != third.scale


def test_grey_scenes_are_grey() -> None:
    out = run(make_scene(), dataclasses.replace(STILL, grey=1.0), 0).gaussians
    assert torch.allclose(out.colors, out.colors[:, :1].expand(-1, 3), atol=1e-6)
