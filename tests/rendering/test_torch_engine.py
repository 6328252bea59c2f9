"""The torch engine against a compositor written once more, pixel by pixel, in float64 numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals
from chorus_core.rendering import View, contributions, render, torch_engine

CAMERA = CameraIntrinsics(22.0, 23.0, 11.3, 8.8, 24, 18)
PARAMETERS = ("means", "quats", "scales", "opacities", "colors")


def make_view(seed: int = 0) -> View:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.array([0.1, 0.2, -0.15]) * seed).as_matrix()
    pose[:3, 3] = np.array([0.1, -0.05, 0.07]) * seed
    return View(CAMERA, pose)


def random_scene(seed: int, count: int = 40) -> Gaussians:
    """Around a camera that looks along +z: some behind it, some out of the picture, some large and near."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(count, 3, generator=rng) * 0.7 + torch.tensor((0.0, 0.0, 1.6))
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    scales = torch.exp(torch.empty(count, 3).uniform_(-4.0, -1.3, generator=rng))
    opacities = torch.empty(count).uniform_(0.02, 1.0, generator=rng)
    return Gaussians(means, quats, scales, opacities, torch.rand(count, 3, generator=rng))


def composite_slowly(arrays: dict[str, np.ndarray], values: np.ndarray, view: View) -> np.ndarray:
    """3DGS by its definition (Kerbl et al. 2023; Zwicker et al. 2001): values, alpha and depth sum [H, W, D + 2]."""
    k = view.intrinsics
    world_to_camera = np.linalg.inv(view.world_from_camera)
    splats = []
    for i, mean in enumerate(arrays["means"].astype(np.float64)):
        x, y, z = world_to_camera[:3, :3] @ mean + world_to_camera[:3, 3]
        if z <= 0.05:
            continue
        rotation = Rotation.from_quat(arrays["quats"][i], scalar_first=True).as_matrix()
        covariance = rotation @ np.diag(arrays["scales"][i].astype(np.float64) ** 2) @ rotation.T
        covariance = world_to_camera[:3, :3] @ covariance @ world_to_camera[:3, :3].T
        # The slope is limited to 15 % of the image beyond its edge, half a pixel outside the last pixel's centre.
        tx = np.clip(x / z, (-0.5 - k.cx - 0.15 * k.width) / k.fx, (1.15 * k.width - 0.5 - k.cx) / k.fx)
        ty = np.clip(y / z, (-0.5 - k.cy - 0.15 * k.height) / k.fy, (1.15 * k.height - 0.5 - k.cy) / k.fy)
        jacobian = np.array([[k.fx / z, 0, -k.fx * tx / z], [0, k.fy / z, -k.fy * ty / z]])
        image_covariance = jacobian @ covariance @ jacobian.T + 0.3 * np.eye(2)
        centre = np.array([k.fx * x / z + k.cx, k.fy * y / z + k.cy])
        splats.append((z, i, centre, np.linalg.inv(image_covariance)))
    splats.sort(key=lambda s: s[0])
    out = np.zeros((k.height, k.width, values.shape[1] + 2))
    for v in range(k.height):
        for u in range(k.width):
            through = 1.0
            for z, i, centre, precision in splats:
                d = np.array([u, v]) - centre
                alpha = min(float(arrays["opacities"][i]) * math.exp(-0.5 * d @ precision @ d), 0.999)
                if alpha < 1 / 255:
                    continue
                if through * (1 - alpha) <= 1e-4:
                    break
                out[v, u] += through * alpha * np.array([*values[i], 1.0, z])
                through *= 1 - alpha
    return out


def as_arrays(g: Gaussians) -> dict[str, np.ndarray]:
    return {name: getattr(g, name).detach().double().numpy() for name in PARAMETERS}


@pytest.mark.parametrize("seed", range(4))
def test_images_are_those_of_the_definition(seed: int) -> None:
    scene, view = random_scene(seed), make_view(seed)
    features = torch.randn(len(scene), 2, generator=torch.Generator().manual_seed(seed))
    expected = composite_slowly(as_arrays(scene), torch.cat((scene.colors, features), dim=1).double().numpy(), view)
    drawn = render(scene, view, features, background=(0.1, 0.5, 0.9), engine="torch")
    alpha = expected[..., -2]
    assert 0.1 < alpha.mean() < 0.999, "the scene says something"
    color = expected[..., :3] + (1 - alpha[..., None]) * np.array((0.1, 0.5, 0.9))
    # Float32 decides differently only where alpha is within rounding of a threshold: 1/255 at the most, in few pixels.
    for found, wanted in ((drawn.color, color), (drawn.alpha, alpha), (drawn.features, expected[..., 3:5])):
        difference = np.abs(found.numpy() - wanted)
        assert np.median(difference) < 1e-6
        assert np.quantile(difference, 0.99) < 1e-4
        assert difference.max() < 0.02
    covered = alpha > 0.05
    depth = expected[..., -1][covered] / alpha[covered]
    assert np.quantile(np.abs(drawn.depth.numpy()[covered] - depth), 0.99) < 1e-3
    assert (drawn.depth[drawn.alpha == 0] == 0).all()


@pytest.mark.parametrize("seed", range(2))
def test_gradients_are_finite_differences_of_the_definition(seed: int) -> None:
    """Central differences in float64 of the slow compositor against autograd through the fast one."""
    camera = CameraIntrinsics(9.0, 9.0, 4.6, 3.4, 10, 8)
    view = View(camera, make_view(seed).world_from_camera)
    scene = random_scene(seed + 20, count=6)
    scene.means[:, 2] = 1.0 + 0.25 * torch.arange(6)
    scene.means[:, :2] *= 0.4
    scene.opacities.clamp_(max=0.9)  # nothing is clamped, nothing is cut off behind
    weights = np.random.default_rng(seed).normal(size=(camera.height, camera.width, 5))

    def functional(arrays: dict[str, np.ndarray]) -> float:
        return float((composite_slowly(arrays, arrays["colors"], view) * weights).sum())

    leaves = {name: getattr(scene, name).clone().requires_grad_() for name in PARAMETERS}
    g = Gaussians(**leaves)
    values, alpha, depth_sum = torch_engine.rasterize(g, g.colors, view)
    drawn = torch.cat((values, alpha[..., None], depth_sum[..., None]), dim=-1)
    (drawn * torch.from_numpy(weights).float()).sum().backward()

    base, step = as_arrays(scene), 1e-6
    for name in PARAMETERS:
        numeric = np.zeros_like(base[name])
        for index in np.ndindex(numeric.shape):
            sides = []
            for sign in (1, -1):
                changed = {k: v.copy() for k, v in base.items()}
                changed[name][index] += sign * step
                sides.append(functional(changed))
            numeric[index] = (sides[0] - sides[1]) / (2 * step)
        found = leaves[name].grad.double().numpy()
        if name == "quats":  # the reference normalises; compare along the unit sphere
            unit = base["quats"]
            found = found - (found * unit).sum(1, keepdims=True) * unit
        assert np.abs(found - numeric).max() < 2e-3 * max(np.abs(numeric).max(), 1.0), name


def test_weights_of_a_pixel_sum_to_its_alpha_and_come_front_to_back() -> None:
    scene, view = random_scene(7, count=200), make_view(1)
    c = contributions(scene, view)
    alpha = torch.zeros(CAMERA.height * CAMERA.width).index_add_(0, c.pixels, c.weights)
    assert torch.allclose(alpha.view(CAMERA.height, CAMERA.width), render(scene, view).alpha, atol=1e-6)
    assert (c.weights > 0).all()
    assert (alpha <= 1.0).all()
    assert (torch.diff(c.pixels) >= 0).all()
    depths = (scene.means @ torch.from_numpy(np.linalg.inv(view.world_from_camera)[2, :3]).float())[c.gaussians]
    same_pixel = torch.diff(c.pixels) == 0
    assert (torch.diff(depths)[same_pixel] >= 0).all()


@pytest.mark.parametrize("pairs", [1, 500, 3000])
def test_bands_do_not_show(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, view = random_scene(3, count=150), make_view(2)
    whole = render(scene, view)
    whole_pairs = contributions(scene, view)
    monkeypatch.setattr(torch_engine, "_MAX_PAIRS", pairs)
    banded = render(scene, view)
    banded_pairs = contributions(scene, view)
    assert torch.equal(whole_pairs.pixels, banded_pairs.pixels)
    assert torch.equal(whole_pairs.gaussians, banded_pairs.gaussians)
    for name in ("color", "alpha", "depth", "normals"):
        assert torch.allclose(getattr(whole, name), getattr(banded, name), atol=2e-6), name


def wall(tilt: float, distance: float = 2.0, step: float = 0.03) -> tuple[Gaussians, np.ndarray]:
    """Opaque flat discs on a plane, and its normal towards the camera."""
    normal = np.array([np.sin(tilt), 0.0, -np.cos(tilt)])
    x, y = np.meshgrid(np.arange(-2, 2, step), np.arange(-2, 2, step))
    along = np.array([np.cos(tilt), 0.0, np.sin(tilt)])
    points = np.array([0.0, 0.0, distance]) + x[..., None] * along + y[..., None] * np.array([0.0, 1.0, 0.0])
    means = torch.tensor(points.reshape(-1, 3), dtype=torch.float32)
    n = len(means)
    quats = quats_from_normals(torch.tensor(normal, dtype=torch.float32).expand(n, 3))
    scales = torch.tensor((0.6 * step, 0.6 * step, 0.1 * step)).repeat(n, 1)
    return Gaussians(means, quats, scales, torch.full((n,), 0.9), torch.full((n, 3), 0.5)), normal


@pytest.mark.parametrize("tilt", [0.0, 0.3, -0.5])
def test_depth_and_normals_of_a_plane(tilt: float) -> None:
    scene, normal = wall(tilt)
    camera = CameraIntrinsics(60.0, 60.0, 31.5, 23.5, 64, 48)
    drawn = render(scene, View(camera, np.eye(4)))
    u, v = np.meshgrid(np.arange(64), np.arange(48))
    rays = np.stack(((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)), -1)
    expected = (normal[2] * 2.0) / (rays @ normal)
    assert (drawn.alpha > 0.95).all()
    error = np.abs(drawn.depth.numpy() - expected)
    # A disc has one depth and the nearer of two overlapping ones counts more: up to a disc's extent along the ray.
    assert error.mean() < 0.001 + 0.03 * abs(np.tan(tilt))
    assert error.max() < 0.001 + 0.12 * abs(np.tan(tilt))
    assert ((drawn.normals.numpy() @ normal) > 0.999).all()
    assert np.allclose(drawn.normals.norm(dim=-1).numpy(), 1.0, atol=1e-5)
    assert torch.allclose(drawn.color, drawn.alpha[..., None] * 0.5, atol=1e-5)


def test_normals_face_the_camera_from_either_side() -> None:
    scene, normal = wall(0.2)
    behind = np.diag([-1.0, 1.0, -1.0, 1.0])
    behind[:3, 3] = (0.0, 0.0, 4.0)
    drawn = render(scene, View(CAMERA, behind))
    assert ((drawn.normals.numpy() @ -normal)[drawn.alpha.numpy() > 0.9] > 0.99).all()


def test_nothing_to_draw_is_background() -> None:
    behind = random_scene(0)
    behind.means[:, 2] = -1.0
    for scene in (Gaussians.empty(), behind, random_scene(0)[:0]):
        drawn = render(scene, make_view(), torch.zeros(len(scene), 4), background=(0.2, 0.3, 0.4))
        assert torch.allclose(drawn.color, torch.tensor((0.2, 0.3, 0.4)).expand(18, 24, 3))
        assert drawn.features.shape == (18, 24, 4)
        assert (drawn.alpha == 0).all()
        assert (drawn.depth == 0).all()
        assert (drawn.normals == 0).all()


def test_pixel_centres_are_whole_numbers() -> None:
    """A Gaussian on the optical axis of pixel (5, 7) is brightest there and symmetric about it."""
    camera = CameraIntrinsics(20.0, 20.0, 5.0, 7.0, 16, 15)
    g = Gaussians(
        torch.tensor([[0.0, 0, 1]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 0.05),
        torch.ones(1),
        torch.ones(1, 3),
    )
    alpha = render(g, View(camera, np.eye(4))).alpha
    assert int(alpha.argmax()) == 7 * 16 + 5
    assert torch.allclose(alpha[5:10, 3:8], alpha[5:10, 3:8].flip(0, 1), atol=1e-6)


def test_bad_engines_are_named() -> None:
    with pytest.raises(ValueError, match="'opengl'"):
        render(random_scene(0), make_view(), engine="opengl")
    with pytest.raises(ValueError, match="CUDA"):
        render(random_scene(0), make_view(), engine="gsplat")


def test_a_bad_pose_is_refused() -> None:
    with pytest.raises(ValueError, match="world_from_camera"):
        View(CAMERA, np.full((4, 4), np.nan))
