"""Random changes of a scene that leave its meaning: pose, density, sensor noise, light. All on the scene's device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals, rotations_from_quats


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of each augmentation; lengths in metres, angles in radians."""

    tilt: float = math.pi / 64
    scale: tuple[float, float] = (0.9, 1.1)
    max_points: int = 50_000
    drop: float = 0.4
    jitter: float = 0.15  # of a voxel
    grid: tuple[float, float] = (1.0, 1.5)  # of the map's voxel
    brightness: float = 0.25
    contrast: float = 0.25
    channel_gain: float = 0.12
    color_noise: float = 0.03
    grey: float = 0.08
    attribute_drop: float = 0.1
    canonical: float = 0.7  # how often discs are spun as the map spins them; other sources spin them otherwise


def augment(
    gaussians: Gaussians, instance: Tensor, voxel_size: float, config: AugmentConfig, rng: torch.Generator
) -> tuple[Gaussians, Tensor, float]:
    """A random variant of a scene: Gaussians, the instance of each [M], and the voxel size to encode at, metres."""
    device = gaussians.device

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng, device=device))

    keep = torch.rand(len(gaussians), generator=rng, device=device) >= uniform(0.0, config.drop)
    keep &= _crop(gaussians.means, config.max_points, rng)
    g, instance = gaussians[keep], instance[keep]

    rotation = _rotation(
        uniform(-math.pi, math.pi), uniform(-config.tilt, config.tilt), uniform(-config.tilt, config.tilt)
    )
    scale = uniform(*config.scale)
    mirror = uniform(0, 1) < 0.5
    means = g.means - g.means.mean(dim=0)
    quats = g.quats
    if mirror:  # x -> -x; a reflected rotation R becomes F R F, which negates two components of its quaternion
        means = means * means.new_tensor((-1.0, 1.0, 1.0))
        quats = quats * quats.new_tensor((1.0, 1.0, -1.0, -1.0))
    means = means @ rotation.to(device).T * scale
    means = means + torch.randn(means.shape, generator=rng, device=device) * (
        config.jitter * voxel_size * uniform(0, 1)
    )
    quats = _multiply(_quat_from_matrix(rotation).to(device), quats)
    if uniform(0, 1) < config.canonical:
        quats = quats_from_normals(rotations_from_quats(quats)[..., 2])

    scales = g.scales * scale
    opacities = g.opacities
    if uniform(0, 1) < config.attribute_drop:  # other mappers set these two otherwise: do not lean on them
        scales = scales * uniform(0.5, 2.0)
        opacities = opacities.clamp(min=0.1) ** uniform(0.3, 2.0)
    grid_size = voxel_size * scale * uniform(*config.grid)
    return Gaussians(means, quats, scales, opacities, _recolor(g.colors, config, rng, uniform)), instance, grid_size


def _crop(means: Tensor, max_points: int, rng: torch.Generator) -> Tensor:
    """Mask of the points nearest (in the plane) to a random one."""
    mask = torch.ones(means.shape[0], dtype=torch.bool, device=means.device)
    if means.shape[0] <= max_points:
        return mask
    centre = means[torch.randint(0, means.shape[0], (1,), generator=rng, device=means.device)]
    distance = (means[:, :2] - centre[:, :2]).square().sum(dim=1)
    return distance <= distance.kthvalue(max_points).values


def _recolor(colors: Tensor, config: AugmentConfig, rng: torch.Generator, uniform) -> Tensor:
    gains = 1.0 + (torch.rand(3, generator=rng, device=colors.device) * 2 - 1) * config.channel_gain
    mean = colors.mean()
    contrast = 1.0 + uniform(-config.contrast, config.contrast)
    brightness = 1.0 + uniform(-config.brightness, config.brightness)
    out = ((colors - mean) * contrast + mean) * brightness * gains
    if uniform(0, 1) < config.grey:
        out = out.mean(dim=1, keepdim=True).expand(-1, 3)
    noise = torch.randn(colors.shape, generator=rng, device=colors.device) * (config.color_noise * uniform(0, 1))
    return (out + noise).clamp(0.0, 1.0)


def _rotation(yaw: float, roll: float, pitch: float) -> Tensor:
    """Rotation matrix: yaw about z after roll about x and pitch about y [3, 3]."""
    cz, sz, cx, sx, cy, sy = (f(a) for a in (yaw, roll, pitch) for f in (math.cos, math.sin))
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_z @ about_y @ about_x


def _quat_from_matrix(rotation: Tensor) -> Tensor:
    """Unit quaternion wxyz [4] of a rotation matrix [3, 3]."""
    from transforms3d.quaternions import mat2quat

    return torch.tensor(mat2quat(rotation.double().numpy()), dtype=torch.float32)


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product of one quaternion [4] with many [N, 4], wxyz."""
    w, x, y, z = left
    matrix = torch.stack(
        (
            torch.stack((w, -x, -y, -z)),
            torch.stack((x, w, -z, y)),
            torch.stack((y, z, w, -x)),
            torch.stack((z, -y, x, w)),
        )
    )
    return right @ matrix.T
