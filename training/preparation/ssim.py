"""Structural similarity of images (Wang et al. 2004), differentiable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WINDOW, SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean SSIM over channels and all windows inside the image.

    Args:
        first, second: values in [0, 1], float [H, W, C], at least 11 pixels each way.
    """
    if min(first.shape[:2]) < WINDOW:
        raise ValueError(f"image of shape {tuple(first.shape)}: SSIM needs at least {WINDOW} pixels each way")
    a, b = first.permute(2, 0, 1), second.permute(2, 0, 1)  # [C, H, W]
    means = _blur(torch.cat((a, b, a * a, b * b, a * b))[:, None])
    mean_a, mean_b, square_a, square_b, product = means.squeeze(1).chunk(5)
    variance_a, variance_b = square_a - mean_a.square(), square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    return (luminance * (2 * covariance + _C2) / (variance_a + variance_b + _C2)).mean()


def _blur(images: Tensor) -> Tensor:
    """Gaussian window along both axes, no padding [C, 1, H - 10, W - 10]."""
    offsets = torch.arange(WINDOW, device=images.device, dtype=images.dtype) - WINDOW // 2
    kernel = torch.exp(-0.5 * (offsets / SIGMA).square())
    kernel = kernel / kernel.sum()
    return functional.conv2d(functional.conv2d(images, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
