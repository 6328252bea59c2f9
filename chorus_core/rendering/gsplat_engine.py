"""The same renderer through gsplat's CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.rendering.camera import DILATION, NEAR, View


def rasterize(gaussians: Gaussians, values: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Composite per-Gaussian values; arguments and results as in the torch engine."""
    from gsplat import rasterization

    k = view.intrinsics
    matrix = torch.tensor(k.matrix, dtype=torch.float32, device=gaussians.device)
    matrix[:2, 2] += 0.5  # gsplat puts the centre of the first pixel at (0.5, 0.5)
    drawn, alpha, _ = rasterization(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        values,
        view.camera_from_world(gaussians.device)[None],
        matrix[None],
        k.width,
        k.height,
        near_plane=NEAR,
        eps2d=DILATION,
        render_mode="RGB+D",
    )
    return drawn[0, ..., :-1], alpha[0, ..., 0], drawn[0, ..., -1]
