"""A view to draw: intrinsics and pose, and the projection of Gaussians into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chorus_core.frames import CameraIntrinsics, check_rigid
from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import rotations_from_quats

DILATION = 0.3
"""Pixels squared added to a projected covariance, so that no Gaussian falls between pixels (as in 3DGS)."""
NEAR = 0.05
"""Gaussians nearer than this, metres, are not drawn."""
MIN_ALPHA = 1.0 / 255.0
MAX_ALPHA = 0.999
MIN_TRANSMITTANCE = 1e-4


@dataclass(frozen=True)
class View:
    """A pinhole view. Pixel (0, 0) is the centre of the top-left pixel; OpenCV camera axes.

    Attributes:
        intrinsics: size and focal lengths, pixels.
        world_from_camera: rigid, float64 [4, 4].
    """

    intrinsics: CameraIntrinsics
    world_from_camera: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "world_from_camera", check_rigid(self.world_from_camera))

    def camera_from_world(self, device: torch.device) -> Tensor:
        """float32 [4, 4]."""
        return torch.tensor(np.linalg.inv(self.world_from_camera), dtype=torch.float32, device=device)


@dataclass
class Splats:
    """Gaussians projected into a view.

    Attributes:
        centers: pixels (u, v) [N, 2].
        conics: inverse 2D covariance as (a, b, c) of [[a, b], [b, c]] [N, 3].
        radii: extent of what is visible, pixels, 0 where not drawn [N, 2].
        depths: z-depth, metres [N].
    """

    centers: Tensor
    conics: Tensor
    radii: Tensor
    depths: Tensor


def project(gaussians: Gaussians, view: View) -> Splats:
    """EWA projection (Zwicker et al. 2001) of Gaussians, as in 3DGS (Kerbl et al. 2023)."""
    k = view.intrinsics
    camera_from_world = view.camera_from_world(gaussians.device)
    rotation = camera_from_world[:3, :3]
    means = gaussians.means @ rotation.T + camera_from_world[:3, 3]  # [N, 3] camera frame
    z = means[:, 2].clamp(min=NEAR)
    axes = rotation @ rotations_from_quats(gaussians.quats) * gaussians.scales[:, None, :]  # [N, 3, 3]

    # The linearisation is taken at the image's edge at most, where it would otherwise explode.
    limit_x = (_limit(k.cx, k.width, k.fx, -1), _limit(k.cx, k.width, k.fx, 1))
    limit_y = (_limit(k.cy, k.height, k.fy, -1), _limit(k.cy, k.height, k.fy, 1))
    x = z * (means[:, 0] / z).clamp(*limit_x)
    y = z * (means[:, 1] / z).clamp(*limit_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        (k.fx / z, zero, -k.fx * x / z.square(), zero, k.fy / z, -k.fy * y / z.square()), dim=1
    ).view(-1, 2, 3)
    spread = jacobian @ axes  # [N, 2, 3]
    cov = spread @ spread.transpose(1, 2)
    a, b, c = cov[:, 0, 0] + DILATION, cov[:, 0, 1], cov[:, 1, 1] + DILATION
    determinant = a * c - b * b
    centers = torch.stack((k.fx * means[:, 0] / z + k.cx, k.fy * means[:, 1] / z + k.cy), dim=1)

    # Beyond this many standard deviations a Gaussian's alpha is below what can be seen.
    reach = (2.0 * torch.log((gaussians.opacities.detach() / MIN_ALPHA).clamp(min=1.0))).sqrt().clamp(max=3.33)
    radii = torch.ceil(reach[:, None] * torch.stack((a, c), dim=1).detach().sqrt())
    size = torch.tensor((k.width, k.height), device=z.device)
    drawn = (means[:, 2] > NEAR) & (determinant > 0)
    drawn &= ((centers + radii > -0.5) & (centers - radii < size - 0.5)).all(dim=1)
    return Splats(centers, torch.stack((c, -b, a), dim=1) / determinant[:, None], radii * drawn[:, None], means[:, 2])


def _limit(centre: float, size: int, focal: float, side: int) -> float:
    """Tangent of the viewing angle 15 % of the image beyond its left (-1) or right (1) edge."""
    margin = 0.15 * size / focal
    edge = ((size - 0.5 if side > 0 else -0.5) - centre) / focal  # half a pixel beyond the last pixel's centre
    return edge + side * margin
