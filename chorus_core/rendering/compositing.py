"""Alpha compositing over lists of (Gaussian, pixel) pairs: what both engines have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.rendering.camera import MAX_ALPHA


@dataclass
class Contributions:
    """Sparse compositing weights of a view: rows of the matrix that turns Gaussian values into pixel values.

    Attributes:
        pixels: flat index v * width + u, ascending [P].
        gaussians: index of the Gaussian; front to back within a pixel [P].
        weights: alpha times transmittance [P].
        size: height and width of the view, pixels.
    """

    pixels: Tensor
    gaussians: Tensor
    weights: Tensor
    size: tuple[int, int]


def pair_alphas(u: Tensor, v: Tensor, centers: Tensor, conics: Tensor, opacities: Tensor) -> Tensor:
    """How much each Gaussian covers of each pixel: opacity x exp(-d^T conic d / 2), as in 3DGS (Kerbl et al. 2023) [P].

    Args:
        u: column of the pixel [P].
        v: row of the pixel [P].
        centers: of the projected Gaussian, pixels [P, 2].
        conics: of the projected Gaussian, as in :class:`~chorus_core.rendering.camera.Splats` [P, 3].
        opacities: [P].
    """
    dx, dy = u - centers[:, 0], v - centers[:, 1]
    a, b, c = conics.unbind(1)
    power = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    return (opacities * torch.exp(-power)).clamp(max=MAX_ALPHA)


def transmittances(pixels: Tensor, alphas: Tensor) -> Tensor:
    """What the pairs before each leave of its pixel: a product of (1 - alpha) over the pixel's run of pairs [P].

    Args:
        pixels: equal for neighbours of one run, front to back within it [P].
        alphas: below 1 [P].
    """
    # In float64, because the running sum goes on over all pixels and is taken back by a difference.
    log_through = torch.log1p(-alphas.double())
    before = log_through.cumsum(0) - log_through  # of all pairs before this one, those of earlier pixels too
    _, run, counts = torch.unique_consecutive(pixels, return_inverse=True, return_counts=True)
    starts = counts.cumsum(0) - counts
    return torch.exp(before - before[starts][run]).to(alphas.dtype)
