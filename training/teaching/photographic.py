"""What a camera and a JPEG file do to an image, so that renders come closer to photographs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 8

# Quantisation of brightness and of colour at quality 50 (ITU-T T.81, annex K).
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip
_YCC_FROM_RGB = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))  # JFIF


def photographed(images: Tensor, rng: torch.Generator, share: float) -> Tensor:
    """Images as a camera might have taken them: each of these with the chance ``share``, of a random strength.

    White balance, the curve of tones, vignetting, blur, and the blocks and lost colours of JPEG.

    Args:
        images: sRGB, float [B, H, W, 3] in 0 to 255.
        rng: of the images' device.

    Returns:
        float [B, H, W, 3] in 0 to 255.
    """

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand((images.shape[0], *size), generator=rng, device=images.device)

    def some(changed: Tensor, plain: Tensor) -> Tensor:
        return torch.where(uniform(0.0, 1.0, 1, 1, 1) < share, changed, plain)

    x = images.permute(0, 3, 1, 2)
    x = some(x * uniform(0.8, 1.25, 3, 1, 1), x).clamp(0, 255)
    x = some(255 * (x / 255) ** uniform(0.6, 1.6, 1, 1, 1), x)
    x = some(x * (1 - uniform(0.0, 0.5, 1, 1, 1) * _squared_radius(x)), x)
    x = some(blurred(x, uniform(0.3, 2.0)), x)
    x = some(jpeg(x, uniform(25.0, 95.0)), x)
    return x.permute(0, 2, 3, 1).clamp(0, 255)


def _squared_radius(x: Tensor) -> Tensor:
    """Squared distance from the middle of the image, 1 in its corners [H, W]."""
    rows, columns = (torch.linspace(-1, 1, size, device=x.device) for size in x.shape[2:])
    return (rows[:, None].square() + columns.square()) / 2


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Each image behind a Gaussian of its own width.

    Args:
        images: [B, C, H, W].
        sigma: pixels, at most 2 [B].
    """
    batch, channels, height, width = images.shape
    reach = torch.arange(-5, 6, device=images.device)
    kernel = torch.exp(-0.5 * (reach / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    x = functional.pad(images, (5, 5, 5, 5), mode="reflect").reshape(1, batch * channels, height + 10, width + 10)
    x = functional.conv2d(x, kernel[:, None, :, None], groups=batch * channels)
    x = functional.conv2d(x, kernel[:, None, None, :], groups=batch * channels)
    return x.view(batch, channels, height, width)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """What is left of images in a JPEG file without subsampling: rounded cosine coefficients of 8 x 8 blocks.

    Args:
        images: sRGB in 0 to 255 [B, 3, H, W].
        quality: as of the Independent JPEG Group's library, 1 to 100 [B].
    """
    height, width = images.shape[2:]
    mix = torch.tensor(_YCC_FROM_RGB, device=images.device)
    middle = torch.tensor([128.0, 0.0, 0.0], device=images.device)[:, None, None]
    ycc = torch.einsum("ij,bjhw->bihw", mix, images) - middle
    ycc = functional.pad(ycc, (0, -width % _BLOCK, 0, -height % _BLOCK), mode="replicate")
    basis = _cosines(images.device)
    blocks = ycc.view(*ycc.shape[:2], ycc.shape[2] // _BLOCK, _BLOCK, ycc.shape[3] // _BLOCK, _BLOCK)
    coefficients = torch.einsum("ux,bchxwy,vy->bchuwv", basis, blocks, basis)
    tables = torch.tensor((_LUMINANCE, _CHROMINANCE, _CHROMINANCE), device=images.device)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None, None, None]
    step = ((tables * scale + 50) / 100).floor().clamp(1, 255)[:, :, None, :, None, :]
    rounded = (coefficients / step).round() * step
    blocks = torch.einsum("ux,bchuwv,vy->bchxwy", basis, rounded, basis)
    ycc = blocks.reshape(ycc.shape)[:, :, :height, :width] + middle
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(mix), ycc).clamp(0, 255)


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal discrete cosine transform (type II) of 8 values [8, 8]."""
    k = torch.arange(_BLOCK, device=device, dtype=torch.float32)
    rows = torch.cos(math.pi / _BLOCK * (k + 0.5) * k[:, None]) * math.sqrt(2 / _BLOCK)
    rows[0] /= math.sqrt(2)
    return rows
