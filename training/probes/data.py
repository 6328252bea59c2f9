"""Labelled scenes as batches of voxels: cached on the training device, augmented and voxelised there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chorus_core.encoder.inputs import POINT_CHANNELS, gaussian_channels, point_channels, voxelize
from chorus_core.encoder.model import ModelConfig
from chorus_core.gaussians import Gaussians
from training.prepared import PreparedScene


@dataclass(frozen=True)
class LabelledScene:
    """What a probe sees of a scene.

    Attributes:
        gaussians: N of them.
        normals: unit [N, 3].
        segment: class of each, -1 = ignore, int64 [N].
        grid_size: edge of the voxels to encode at, metres.
    """

    gaussians: Gaussians
    normals: Tensor
    segment: Tensor
    grid_size: float

    @classmethod
    def of(cls, scene: PreparedScene, config: ModelConfig, device: torch.device | str) -> LabelledScene:
        """A prepared scene on a device, at the grid that it is evaluated on."""
        normals, segment = scene.normals.to(device, torch.float32), scene.segment.to(device)
        return cls(scene.gaussians.to(device), normals, segment, max(config.grid_size, scene.info.voxel_size))

    def __getitem__(self, rows: Tensor) -> LabelledScene:
        return replace(self, gaussians=self.gaussians[rows], normals=self.normals[rows], segment=self.segment[rows])

    def __len__(self) -> int:
        return len(self.gaussians)


@dataclass(frozen=True)
class VoxelBatch:
    """Scenes on the encoder's grid, one after another.

    Attributes:
        grid: int64 [V, 3].
        feat: input channels [V, C].
        offset: cumulative scene sizes [B].
        segment: class of each voxel, -1 = ignore [V].
        voxel_of_point: voxel of each Gaussian of all scenes [N].
    """

    grid: Tensor
    feat: Tensor
    offset: Tensor
    segment: Tensor
    voxel_of_point: Tensor


def voxel_batch(scenes: Sequence[LabelledScene], in_channels: int) -> VoxelBatch:
    """Scenes as the encoder reads them; a voxel takes the label of the Gaussian that stands for it, and where that has
    none (a few labelled points of a scene are easily hidden) the highest class among the others in it."""
    parts = [_voxelize(scene, in_channels) for scene in scenes]
    sizes = torch.tensor([len(grid) for grid, *_ in parts], device=parts[0][0].device)
    offset = sizes.cumsum(0)
    starts = (offset - sizes).tolist()
    rows = torch.cat([row + start for (_, _, _, row), start in zip(parts, starts, strict=True)])
    grid, feat, segment = (torch.cat([part[i] for part in parts]) for i in range(3))
    return VoxelBatch(grid, feat, offset, segment, rows)


def augment(scene: LabelledScene, generator: torch.Generator) -> LabelledScene:
    """A random yaw (half of the time), mirror, scale and change of colour.

    Convention: a reflection F along x turns the rotation R of a Gaussian into F R F, which negates the quaternion's
    y and z; a rotation multiplies quaternions from the left.
    """
    device = scene.gaussians.device

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    g, normals = scene.gaussians, scene.normals
    means, quats = g.means - g.means.mean(dim=0), g.quats
    if uniform(0, 1) < 0.5:
        means = means * means.new_tensor((-1.0, 1.0, 1.0))
        normals = normals * normals.new_tensor((-1.0, 1.0, 1.0))
        quats = quats * quats.new_tensor((1.0, 1.0, -1.0, -1.0))
    if uniform(0, 1) < 0.5:
        yaw = uniform(-math.pi, math.pi)
        c, s = math.cos(yaw), math.sin(yaw)
        rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], device=device)
        means, normals, quats = means @ rotation.T, normals @ rotation.T, _turn_about_z(quats, yaw)
    scale = uniform(0.9, 1.1)
    gain = 1.0 + 0.1 * (2 * torch.rand(3, generator=generator) - 1)
    contrast, shift = uniform(0.8, 1.2), uniform(-0.1, 0.1)
    colors = ((g.colors - 0.5) * contrast + 0.5 + shift) * gain.to(device)
    moved = Gaussians(means * scale, quats, g.scales * scale, g.opacities, colors.clamp(0, 1))
    return LabelledScene(moved, normals, scene.segment, scene.grid_size * scale)


def crop(scene: LabelledScene, max_points: int, generator: torch.Generator) -> LabelledScene:
    """The Gaussians nearest (in the plane) to a random labelled one; the whole scene where it is small enough."""
    labelled = (scene.segment >= 0).nonzero().squeeze(1)
    if len(scene) <= max_points or not len(labelled):
        return scene
    centre = labelled[int(torch.randint(len(labelled), (), generator=generator))]
    plane = scene.gaussians.means[:, :2]
    distance = (plane - plane[centre]).square().sum(dim=1)
    return scene[distance.argsort(stable=True)[:max_points].sort().values]


def _voxelize(scene: LabelledScene, in_channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = scene.gaussians
    if in_channels == POINT_CHANNELS:
        voxels = voxelize(g.means, point_channels(g.means, g.colors, scene.normals), scene.grid_size)
    else:
        voxels = voxelize(g.means, gaussian_channels(g), scene.grid_size, g.opacities)
    best = torch.full((len(voxels.grid),), -1, dtype=torch.int64, device=g.device)
    best = best.scatter_reduce(0, voxels.voxel_of_point, scene.segment, "amax")
    segment = scene.segment[voxels.representative]
    return voxels.grid, voxels.feat, torch.where(segment >= 0, segment, best), voxels.voxel_of_point


def _turn_about_z(quats: Tensor, yaw: float) -> Tensor:
    """Quaternions wxyz [N, 4] after a rotation about z: the Hamilton product (cos, 0, 0, sin of the half) * q."""
    c, s = math.cos(yaw / 2), math.sin(yaw / 2)
    w, x, y, z = quats.unbind(dim=1)
    return torch.stack((c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w), dim=1)
