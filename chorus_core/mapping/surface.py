"""What one RGB-D frame says about the surface: a point, normal, colour and weight for every usable pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chorus_core.config import MapConfig
from chorus_core.frames import CameraIntrinsics, RgbdFrame

# A pixel whose depth differs from both neighbours along an axis by more than this fraction lies in the air between two
# surfaces ("flying pixel"), unless the three lie on one plane: floors seen at a grazing angle are as steep.
_FLYING_FRACTION = 0.03
# A normal is trusted where depth changes by less than this fraction between neighbouring pixels, or as on a plane.
_SMOOTH_FRACTION = 0.1
# On a plane, inverse depth is affine over the image. This is how far, as a fraction of its own inverse depth, a pixel
# may lie off the middle between its neighbours'.
_PLANAR_FRACTION = 0.03


@dataclass
class SurfacePixels:
    """The usable pixels of a frame, in the world frame.

    Attributes:
        points: metres [P, 3].
        normals: unit, towards the camera [P, 3].
        colors: RGB in [0, 1] [P, 3].
        weights: confidence of the depth in (0, 1] [P].
        footprints: edge of what a (strided) pixel covers at its depth, metres [P].
    """

    points: Tensor
    normals: Tensor
    colors: Tensor
    weights: Tensor
    footprints: Tensor


@dataclass
class DeviceFrame:
    """A frame on the map's device.

    Attributes:
        color: uint8 [H, W, 3].
        depth: metres, 0 = none [H, W].
        intrinsics: of the full-size image.
        world_from_camera: float32 [4, 4].
    """

    color: Tensor
    depth: Tensor
    intrinsics: CameraIntrinsics
    world_from_camera: Tensor

    @classmethod
    def upload(cls, frame: RgbdFrame, device: torch.device, stride: int = 1) -> DeviceFrame:
        """Copy every ``stride``-th pixel in x and y of a frame to a device; nothing of it is aliased."""
        color, depth, k = frame.color, frame.depth, frame.intrinsics
        if stride > 1:
            color, depth = (np.ascontiguousarray(image[::stride, ::stride]) for image in (color, depth))
            height, width = depth.shape
            k = CameraIntrinsics(k.fx / stride, k.fy / stride, k.cx / stride, k.cy / stride, width, height)
        return cls(
            _tensor(color, device),
            _tensor(depth, device),
            k,
            torch.tensor(frame.world_from_camera, dtype=torch.float32, device=device),
        )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy of an array on a device, in one pass; torch cannot read from memory that is write-protected."""
    if device.type == "cpu":
        return torch.tensor(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def choose_stride(depth: np.ndarray, intrinsics: CameraIntrinsics, config: MapConfig) -> int:
    """The largest pixel stride that still gives each voxel of the middle of the scene 3 x 3 pixels.

    The median is taken over a coarse grid of pixels: it steers a sampling density, no more.
    """
    if config.stride > 0:
        return config.stride
    samples = depth[::16, ::16]
    samples = samples[(samples > config.depth_min) & (samples < config.depth_max)]
    if samples.size == 0:
        return 1
    footprint = float(np.median(samples)) / intrinsics.fx
    return int(min(max(config.voxel_size / (3 * footprint), 1), 8))


def measure(frame: DeviceFrame, config: MapConfig, stride: int = 1, phase: int = 0) -> SurfacePixels:
    """Back-project a frame into world points with normals (cross product of central depth differences).

    Args:
        stride: use every n-th pixel of every n-th row.
        phase: shifts the sampled lattice, so that successive frames cover different pixels.

    Weights fall with the square of depth, as the noise of structured light and stereo grows with it
    (Khoshelham and Elberink 2012).
    """
    row, col = phase % stride, (phase // stride) % stride
    z = frame.depth[row::stride, col::stride]  # [h, w]
    h, w = z.shape
    k = frame.intrinsics
    rays_x = (torch.arange(col, col + w * stride, stride, device=z.device, dtype=z.dtype) - k.cx) / k.fx  # [w]
    rays_y = (torch.arange(row, row + h * stride, stride, device=z.device, dtype=z.dtype) - k.cy) / k.fy  # [h]
    points = torch.stack((rays_x * z, rays_y[:, None] * z, z), dim=-1)  # [h, w, 3] camera frame

    usable = (z > config.depth_min) & (z < config.depth_max)
    normals, flying = _normals(points)
    usable &= ~flying

    usable = usable.reshape(-1).nonzero().squeeze(1)  # [P]
    points = points.reshape(-1, 3)[usable]
    normals = normals.reshape(-1, 3)[usable]
    colors = frame.color[row::stride, col::stride].reshape(-1, 3)[usable].float() / 255.0
    z = points[:, 2]
    rotation, translation = frame.world_from_camera[:3, :3], frame.world_from_camera[:3, 3]
    return SurfacePixels(
        points=points @ rotation.T + translation,
        normals=normals @ rotation.T,
        colors=colors,
        weights=1.0 / z.clamp(min=1.0).square(),
        footprints=z * (stride / k.fx),
    )


def _normals(points: Tensor) -> tuple[Tensor, Tensor]:
    """Normals towards the camera [h, w, 3] and the mask of flying pixels [h, w] of an organised cloud [h, w, 3].

    Where depth is missing or jumps next to a pixel, its normal is the viewing direction.
    """
    z = points[..., 2]
    towards_camera = -torch.nn.functional.normalize(points, dim=-1)
    if min(z.shape) < 3:
        return towards_camera, torch.zeros_like(z, dtype=torch.bool)
    centre = z[1:-1, 1:-1]
    left, right = z[1:-1, :-2], z[1:-1, 2:]
    above, below = z[:-2, 1:-1], z[2:, 1:-1]
    along_x = points[1:-1, 2:] - points[1:-1, :-2]
    along_y = points[2:, 1:-1] - points[:-2, 1:-1]
    normal = torch.nn.functional.normalize(torch.linalg.cross(along_y, along_x), dim=-1)

    jump, smooth = _FLYING_FRACTION * centre, _SMOOTH_FRACTION * centre
    flying_inner = torch.zeros_like(centre, dtype=torch.bool)
    trusted = torch.ones_like(centre, dtype=torch.bool)
    for before, after in ((left, right), (above, below)):
        jumps = (before - centre).abs(), (after - centre).abs()
        planar = _bend(before, centre, after) < _PLANAR_FRACTION
        flying_inner |= (jumps[0] > jump) & (jumps[1] > jump) & ~planar
        trusted &= ((jumps[0] < smooth) & (jumps[1] < smooth)) | planar

    normals = towards_camera.clone()
    normals[1:-1, 1:-1] = torch.where(trusted[..., None], normal, towards_camera[1:-1, 1:-1])
    flying = torch.zeros_like(z, dtype=torch.bool)
    flying[1:-1, 1:-1] = flying_inner
    return normals, flying


def _bend(before: Tensor, centre: Tensor, after: Tensor) -> Tensor:
    """How far inverse depth is from linear over three pixels, over the middle's; large where one is missing."""
    tiny = 1e-6
    return (1.0 / before.clamp(min=tiny) + 1.0 / after.clamp(min=tiny) - 2.0 / centre.clamp(min=tiny)).abs() * centre
