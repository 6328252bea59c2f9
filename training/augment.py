"""Random changes of a scene that leave its meaning: pose, density, sensor noise, light. All on the scene's device.

The scalars of a change come from numpy on the host, so that drawing them never waits for the device; the noise of
single Gaussians comes from a generator of the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals, rotations_from_quats

_LEAST = 500
"""Gaussians that the views of a partial scene must have seen."""


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of each augmentation; lengths in metres, angles in radians, shares in [0, 1].

    Attributes:
        rotate: share of scenes turned about the vertical by any angle.
        tilt, tilt_share: greatest turn about each horizontal axis, and the share of scenes it happens to.
        scale: factors of size.
        flip: share of scenes mirrored.
        max_points: scenes are cropped to so many Gaussians around a random one.
        noise_injection: strength and share of moving Gaussians within their covariance, the less opaque the farther
            (the noise of 3DGS-MCMC, Kheradmand et al. 2024).
        scale_blur: least and greatest factor on scales, and its share.
        drop: greatest share of Gaussians that are dropped.
        partial, partial_views: share of scenes of which only what a few views saw is kept, and how many views.
        jitter: standard deviation of positions at most, in voxels.
        grid: voxel size to encode at, in voxels of the map.
        brightness, contrast, channel_gain, color_noise, grey: changes of colour.
        attribute_drop: share of scenes whose scales and opacities are set otherwise.
        canonical: share of scenes whose discs are spun as our map spins them; other sources spin them otherwise.
    """

    rotate: float = 1.0
    tilt: float = math.pi / 64
    tilt_share: float = 1.0
    scale: tuple[float, float] = (0.9, 1.1)
    flip: float = 0.5
    max_points: int = 50_000
    noise_injection: tuple[float, float] = (0.0, 0.0)
    scale_blur: tuple[float, float, float] = (1.0, 1.0, 0.0)
    drop: float = 0.4
    partial: float = 0.3
    partial_views: tuple[int, int] = (2, 12)
    jitter: float = 0.15
    grid: tuple[float, float] = (1.0, 1.5)
    brightness: float = 0.25
    contrast: float = 0.25
    channel_gain: float = 0.12
    color_noise: float = 0.03
    grey: float = 0.08
    attribute_drop: float = 0.1
    canonical: float = 0.7


@dataclass
class Augmented:
    """A random variant of a scene.

    Attributes:
        gaussians: M of them.
        normals: unit [M, 3].
        rows: which Gaussian of the scene each is [M].
        scale: metres of the variant in a metre of the scene.
    """

    gaussians: Gaussians
    normals: Tensor
    rows: Tensor
    scale: float


def augment(
    gaussians: Gaussians,
    normals: Tensor,
    voxel_size: float,
    config: AugmentConfig,
    host: np.random.Generator,
    device: torch.Generator,
    seen: Tensor | None = None,
    views: int = 63,
) -> Augmented:
    """A random variant of a scene, with canonical quaternions (w >= 0).

    Args:
        normals: unit [N, 3].
        voxel_size: metres; the unit of ``jitter``.
        host: of the scalars.
        device: of the tensors, on the Gaussians' device.
        seen: bit k of an entry tells whether view k saw the Gaussian, int64 [N]; None leaves ``partial`` out.
        views: bits in use.
    """
    rows = _kept(gaussians.means, config, host, device, seen, views)
    g, normals = gaussians[rows], normals[rows]
    g, normals, scale = _move(g, normals, config, host)
    means, quats, scales, opacities = g.means, g.quats, g.scales, g.opacities
    if config.jitter > 0:
        means = means + _noise(means, device) * (config.jitter * voxel_size * host.uniform())
    strength, share = config.noise_injection
    if host.uniform() < share:
        means = means + _covariance_noise(g, strength, device)
    if config.canonical > 0 and host.uniform() < config.canonical:
        quats = quats_from_normals(rotations_from_quats(quats)[..., 2])
    if host.uniform() < config.attribute_drop:  # other mappers set these two otherwise: do not lean on them
        scales = scales * host.uniform(0.5, 2.0)
        opacities = opacities.clamp(min=0.1) ** host.uniform(0.3, 2.0)
    low, high, share = config.scale_blur
    if host.uniform() < share:
        scales = scales * host.uniform(low, high)
    quats = torch.where(quats[:, :1] < 0, -quats, quats)
    colors = _recolor(g.colors, config, host, device)
    return Augmented(Gaussians(means, quats, scales, opacities, colors), normals, rows, scale)


def _kept(
    means: Tensor,
    config: AugmentConfig,
    host: np.random.Generator,
    device: torch.Generator,
    seen: Tensor | None,
    views: int,
) -> Tensor:
    """Rows of the Gaussians that stay: thinned, seen from a few views only, cropped."""
    keep = torch.rand(means.shape[0], generator=device, device=means.device) >= host.uniform(0.0, config.drop)
    wanted = host.uniform() < config.partial
    count = int(host.integers(config.partial_views[0], config.partial_views[1] + 1))
    start, stride = int(host.integers(views)), int(host.integers(1, 1 + max(1, views // count)))
    if wanted and seen is not None:
        mask = sum({1 << (start + k * stride) % views for k in range(count)})
        part = keep & ((seen & mask) != 0)
        keep = torch.where(part.sum() >= _LEAST, part, keep)  # views of a bare wall teach nothing
    rows = keep.nonzero().squeeze(1)
    if rows.numel() <= config.max_points:
        return rows
    centre = means[rows[int(host.integers(rows.numel()))], :2]
    distance = (means[rows, :2] - centre).square().sum(dim=1)
    return rows[distance.topk(config.max_points, largest=False, sorted=False).indices]


def _move(
    g: Gaussians, normals: Tensor, config: AugmentConfig, host: np.random.Generator
) -> tuple[Gaussians, Tensor, float]:
    """Turned, mirrored and scaled about its centre; also the scale."""
    yaw = host.uniform(-math.pi, math.pi) * (host.uniform() < config.rotate)
    tilts = host.uniform(-config.tilt, config.tilt, 2) * (host.uniform(size=2) < config.tilt_share)
    scale, mirror = float(host.uniform(*config.scale)), host.uniform() < config.flip
    rotation = rotation_matrix(yaw, *tilts)
    means, quats = g.means - g.means.mean(dim=0), g.quats
    if mirror:  # x -> -x; a reflected rotation R becomes F R F, which negates two components of its quaternion
        axis = means.new_tensor((-1.0, 1.0, 1.0))
        means, normals = means * axis, normals * axis
        quats = quats * quats.new_tensor((1.0, 1.0, -1.0, -1.0))
    turn = rotation.to(means)
    quats = _multiply(_quat_from_matrix(rotation), quats)
    moved = Gaussians(means @ turn.T * scale, quats, g.scales * scale, g.opacities, g.colors)
    return moved, normals @ turn.T, scale


def _noise(like: Tensor, device: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=device, device=like.device)


def _covariance_noise(g: Gaussians, strength: float, device: torch.Generator) -> Tensor:
    """Steps within each covariance, scaled down for opaque Gaussians, metres [N, 3]."""
    gate = torch.sigmoid(100.0 * ((1.0 - g.opacities) - 0.995))[:, None] * strength
    axes = rotations_from_quats(g.quats)
    local = (axes.transpose(1, 2) @ (_noise(g.means, device) * gate)[..., None]).squeeze(2) * g.scales.square()
    return (axes @ local[..., None]).squeeze(2)


def _recolor(colors: Tensor, config: AugmentConfig, host: np.random.Generator, device: torch.Generator) -> Tensor:
    gains = 1.0 + host.uniform(-1, 1, 3) * config.channel_gain
    contrast = 1.0 + host.uniform(-config.contrast, config.contrast)
    gains = gains * (1.0 + host.uniform(-config.brightness, config.brightness))
    mean = colors.mean()
    out = ((colors - mean) * contrast + mean) * colors.new_tensor(gains)
    if host.uniform() < config.grey:
        out = out.mean(dim=1, keepdim=True).expand(-1, 3)
    if config.color_noise > 0:
        out = out + _noise(colors, device) * (config.color_noise * host.uniform())
    return out.clamp(0.0, 1.0)


def rotation_matrix(yaw: float, roll: float, pitch: float) -> Tensor:
    """Yaw about z after roll about x and pitch about y, float64 [3, 3]."""
    cz, sz, cx, sx, cy, sy = (f(a) for a in (yaw, roll, pitch) for f in (math.cos, math.sin))
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]], dtype=torch.float64)
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], dtype=torch.float64)
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    return about_z @ about_y @ about_x


def _quat_from_matrix(rotation: Tensor) -> tuple[float, ...]:
    """Unit quaternion wxyz of a rotation matrix [3, 3]."""
    from transforms3d.quaternions import mat2quat

    return tuple(float(x) for x in mat2quat(rotation.numpy()))


def _multiply(left: tuple[float, ...], right: Tensor) -> Tensor:
    """Hamilton product of one quaternion with many [N, 4], wxyz."""
    w, x, y, z = left
    matrix = right.new_tensor(((w, -x, -y, -z), (x, w, -z, y), (y, z, w, -x), (z, -y, x, w)))
    return right @ matrix.T
