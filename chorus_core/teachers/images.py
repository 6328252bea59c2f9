"""From camera images to what a 2D network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def check_images(images: Tensor) -> tuple[int, int]:
    """Height and width of a batch of images.

    Raises:
        ValueError: not uint8 [B, H, W, 3].
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise ValueError(f"images: {images.dtype} {tuple(images.shape)}, expected uint8 [B, H, W, 3]")
    return images.shape[1], images.shape[2]


def network_input(
    images: Tensor,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    mode: str = "bicubic",
) -> Tensor:
    """Images resized (antialiased, the whole image, aspect as ``size`` has it) and normalised.

    Args:
        images: sRGB, uint8 [B, H, W, 3].
        size: height and width to resize to.
        mean, std: per channel, of values in [0, 1].
        device: where the result is wanted.
        mode: "bicubic" or "bilinear".

    Returns:
        float32 [B, 3, h, w].
    """
    check_images(images)
    x = images.to(device).permute(0, 3, 1, 2).float() / 255
    return normalized(resized(x, size, mode).clamp(0, 1), mean, std)


def resized(x: Tensor, size: tuple[int, int], mode: str = "bicubic") -> Tensor:
    """Antialiased resize of [B, C, H, W] to ``size`` (height, width)."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return nn.functional.interpolate(x, size, mode=mode, align_corners=False, antialias=True)


def normalized(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std over the channels of [B, 3, H, W]."""
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on CUDA (DINOv3's largest activations overflow float16), float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def multiple_of(size: float, step: int) -> int:
    """The multiple of ``step`` nearest to ``size``, at least one step."""
    return max(1, round(size / step)) * step
