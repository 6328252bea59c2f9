"""What is kept of a Gaussian of the map, and the disc that it is handed out as."""

from __future__ import annotations

import torch
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.mapping.geometry import quats_from_normals, rotations_from_quats
from chorus_core.mapping.surface import SurfacePixels

# Columns of a Gaussian's state. The running means come first, in the order of ``SurfacePixels``.
MEAN, COLOR, NORMAL, FOOTPRINT = slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 10)
WEIGHT, EVIDENCE = 10, 11
COLUMNS = 12

MAX_EVIDENCE = 8.0
"""Frames whose evidence is kept, at most: what stood for an hour is gone after as many that see through it."""
_OPAQUE = 2.0
"""Exponent of opacity a frame of evidence: 0.86 after one, 0.98 after two. Fewer frames would leave surfaces dark."""
MEMORY = 50.0
"""Frames that measured a Gaussian, and frames that missed it, count up to this, so that the share follows change."""


def share_of(hits: Tensor, missed: Tensor) -> Tensor:
    """Share of the frames that should have measured a Gaussian which did, [N] in [0, 1].

    Args:
        hits: frames that did, integer [N].
        missed: frames expected to and did not, [N]; fractions where a pixel falls on a voxel by chance.
    """
    hits = hits.clamp(max=MEMORY)
    return hits / (hits + missed.clamp(max=MEMORY)).clamp(min=1e-6)


def to_gaussians(state: Tensor, voxel_size: float) -> Gaussians:
    """Discs on the surface that close it, of states [N, 12]; opacity is ``1 - exp(-2 evidence)``."""
    normals = torch.nn.functional.normalize(state[:, NORMAL], dim=1)
    flat = torch.tensor((0.0, 0.0, 1.0), device=state.device)
    normals = torch.where(normals.square().sum(1, keepdim=True) > 0.5, normals, flat)
    # Neighbouring discs overlap enough to close the surface; beyond the voxel, the pixel's footprint rules.
    tangential = (0.5 * state[:, FOOTPRINT]).clamp(min=0.55 * voxel_size)
    return Gaussians(
        means=state[:, MEAN].contiguous(),
        quats=quats_from_normals(normals),
        scales=torch.cat((tangential, tangential, torch.full_like(tangential, 0.15 * voxel_size)), dim=1),
        opacities=(1.0 - torch.exp(-_OPAQUE * state[:, EVIDENCE])).clamp(0.0, 0.995),
        colors=state[:, COLOR].clamp(0.0, 1.0),
    )


def from_gaussians(gaussians: Gaussians) -> tuple[SurfacePixels, Tensor]:
    """Gaussians as pixels that give their states back, and the evidence of their opacities [N].

    The quaternion's z axis is the normal and the largest scale half the footprint.
    """
    normals = rotations_from_quats(gaussians.quats)[..., 2]
    footprints = gaussians.scales.amax(dim=1) * 2
    pixels = SurfacePixels(gaussians.means, normals, gaussians.colors, torch.ones_like(gaussians.opacities), footprints)
    evidence = -torch.log1p(-gaussians.opacities.clamp(max=0.999)) / _OPAQUE
    return pixels, evidence.clamp(0.05, MAX_EVIDENCE)
