"""One call to draw Gaussians: colour, depth, normals, any per-Gaussian features; one for the weights that do it."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from chorus_core.extras import available
from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import rotations_from_quats
from chorus_core.rendering import gsplat_engine, torch_engine
from chorus_core.rendering.camera import View
from chorus_core.rendering.compositing import Contributions


@dataclass
class Rendering:
    """A drawn view.

    Attributes:
        color: in [0, 1] over the background [H, W, 3].
        alpha: how much of each pixel the Gaussians cover, [0, 1] [H, W].
        depth: expected z-depth, metres; 0 where nothing was drawn [H, W].
        normals: unit, world frame, towards the camera; 0 where nothing was drawn [H, W, 3].
        features: composited, not normalised [H, W, D], or None.
    """

    color: Tensor
    alpha: Tensor
    depth: Tensor
    normals: Tensor
    features: Tensor | None


def render(
    gaussians: Gaussians,
    view: View,
    features: Tensor | None = None,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    engine: str = "auto",
) -> Rendering:
    """Draw Gaussians into a view; differentiable in Gaussians and features.

    Args:
        features: values to composite besides colour [N, D].
        background: RGB in [0, 1].
        engine: "torch" (any device), "gsplat" (CUDA only), or "auto": gsplat for Gaussians on CUDA where
            it is installed.

    Raises:
        ValueError: unknown engine, or gsplat asked to draw on a CPU.
    """
    rasterize = _engine(engine, gaussians).rasterize
    parts = [gaussians.colors, _facing_normals(gaussians, view)]
    if features is not None:
        parts.append(features.to(gaussians.means.dtype))
    drawn, alpha, depth_sum = rasterize(gaussians, torch.cat(parts, dim=1), view)
    covered = alpha > 1e-6
    base = torch.tensor(background, device=alpha.device)
    return Rendering(
        color=drawn[..., :3] + (1.0 - alpha)[..., None] * base,
        alpha=alpha,
        depth=torch.where(covered, depth_sum / alpha.clamp(min=1e-6), 0.0),
        normals=torch.nn.functional.normalize(drawn[..., 3:6], dim=-1) * covered[..., None],
        features=None if features is None else drawn[..., 6:],
    )


def contributions(gaussians: Gaussians, view: View, engine: str = "auto") -> Contributions:
    """What each Gaussian adds to each pixel of a view.

    On the torch engine differentiable in all parameters of the Gaussians, on gsplat without gradient.

    Args:
        engine: as for :func:`render`.

    Raises:
        ValueError: unknown engine, or gsplat asked to draw on a CPU.
    """
    return _engine(engine, gaussians).contributions(gaussians, view)


def _engine(name: str, gaussians: Gaussians) -> ModuleType:
    """The module that draws these Gaussians."""
    if name == "auto":
        fast = gaussians.device.type == "cuda" and available("gsplat", "the renderer in plain torch draws, slower")
        name = "gsplat" if fast else "torch"
    if name not in ("torch", "gsplat"):
        raise ValueError(f"engine {name!r}: expected 'auto', 'torch' or 'gsplat'")
    if name == "gsplat" and gaussians.device.type != "cuda":
        raise ValueError("engine 'gsplat' needs Gaussians on a CUDA device; use 'torch' elsewhere")
    return gsplat_engine if name == "gsplat" else torch_engine


def _facing_normals(gaussians: Gaussians, view: View) -> Tensor:
    """Each Gaussian's shortest axis, turned towards the camera, world frame [N, 3]."""
    axes = rotations_from_quats(gaussians.quats)  # [N, 3, 3]
    shortest = gaussians.scales.argmin(dim=1)
    normals = axes[torch.arange(len(gaussians), device=axes.device), :, shortest]
    position = torch.tensor(view.world_from_camera[:3, 3], dtype=normals.dtype, device=normals.device)
    away = ((gaussians.means - position) * normals).sum(dim=1, keepdim=True) > 0
    return torch.where(away, -normals, normals)
