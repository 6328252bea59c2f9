"""gsplat's kernels in plain torch, so that what is built on them runs without CUDA.

Projection, tiles and offsets are gsplat's own reference implementations. The kernel that lists which Gaussians show in
which pixel has none there: it is written here after its CUDA source, pixel by pixel.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor


def fully_fused_projection(
    means: Tensor,
    covars: None,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float,
    near_plane: float,
    opacities: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    covars, _ = _quat_scale_to_covar_preci(quats, scales, True, False, triu=False)
    radii, means2d, depths, conics, _ = _fully_fused_projection(
        means, covars, viewmats, Ks, width, height, eps2d=eps2d, near_plane=near_plane
    )
    hidden = radii.eq(0).any(-1) | (opacities[None] < 1 / 255)
    nothing = float("nan")  # the CUDA kernel leaves what is not drawn unwritten
    means2d, conics = (torch.where(hidden[..., None], nothing, x) for x in (means2d, conics))
    return torch.where(hidden[..., None], 0, radii), means2d, torch.where(hidden, nothing, depths), conics, None


def isect_tiles(
    means2d: Tensor, radii: Tensor, depths: Tensor, tile_size: int, tile_width: int, tile_height: int
) -> tuple[Tensor, Tensor, Tensor]:
    from gsplat.cuda._torch_impl import _isect_tiles

    drawn = (radii > 0).all(-1)
    means2d = torch.where(drawn[..., None], means2d, 0.0)
    depths = torch.where(drawn, depths, 1.0)
    return _isect_tiles(means2d, radii, depths, tile_size, tile_width, tile_height)


def isect_offset_encode(isect_ids: Tensor, n_images: int, tile_width: int, tile_height: int) -> Tensor:
    from gsplat.cuda._torch_impl import _isect_offset_encode

    return _isect_offset_encode(isect_ids, n_images, tile_width, tile_height)


def rasterize_to_indices_in_range(
    range_start: int,
    range_end: int,
    transmittances: Tensor,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    assert transmittances.shape == (1, image_height, image_width)
    assert isect_offsets.shape[1] * tile_size >= image_height
    assert isect_offsets.shape[2] * tile_size >= image_width
    starts = [*isect_offsets.flatten().tolist(), len(flatten_ids)]
    batch = tile_size * tile_size
    centers, precisions, opaque = means2d[0].tolist(), conics[0].tolist(), opacities[0].tolist()
    owners, pixels = [], []
    for i in range(image_height):
        for j in range(image_width):
            tile = (i // tile_size) * isect_offsets.shape[2] + j // tile_size
            first = min(starts[tile] + range_start * batch, starts[tile + 1])
            last = min(starts[tile] + range_end * batch, starts[tile + 1])
            through = float(transmittances[0, i, j])
            for g in flatten_ids[first:last].tolist():
                dx, dy = centers[g][0] - (j + 0.5), centers[g][1] - (i + 0.5)
                a, b, c = precisions[g]
                sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
                alpha = min(0.999, opaque[g] * math.exp(-sigma))
                if sigma < 0 or alpha < 1 / 255:
                    continue
                if through * (1 - alpha) <= 1e-4:
                    break
                through *= 1 - alpha
                owners.append(g)
                pixels.append(i * image_width + j)
    found = torch.tensor(owners, dtype=torch.int64), torch.tensor(pixels, dtype=torch.int64)
    return *found, torch.zeros_like(found[0])


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the twins in the place of the kernels."""
    gsplat = pytest.importorskip("gsplat")
    for twin in (fully_fused_projection, isect_tiles, isect_offset_encode, rasterize_to_indices_in_range):
        monkeypatch.setattr(gsplat, twin.__name__, twin)
