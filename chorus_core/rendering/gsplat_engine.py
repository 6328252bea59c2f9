"""The same renderer through gsplat's CUDA kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.rendering.camera import DILATION, MIN_ALPHA, MIN_TRANSMITTANCE, NEAR, View
from chorus_core.rendering.compositing import Contributions, pair_alphas, transmittances

_TILE = 16
_MAX_LAYERS = math.ceil(math.log(MIN_TRANSMITTANCE) / math.log1p(-MIN_ALPHA))
"""The most Gaussians that can show in one pixel: all of the least alpha that counts, until nothing is left."""
_MAX_PAIRS = 2**27
"""Bound on the pairs of one launch. The kernel counts them in int32, and the bound is far above what is found."""


def rasterize(gaussians: Gaussians, values: Tensor, view: View) -> tuple[Tensor, Tensor, Tensor]:
    """Composite per-Gaussian values; arguments and results as in the torch engine."""
    from gsplat import rasterization

    k = view.intrinsics
    drawn, alpha, _ = rasterization(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        values,
        view.camera_from_world(gaussians.device)[None],
        _matrix(view, gaussians.device)[None],
        k.width,
        k.height,
        near_plane=NEAR,
        eps2d=DILATION,
        render_mode="RGB+D",
    )
    return drawn[0, ..., :-1], alpha[0, ..., 0], drawn[0, ..., -1]


@torch.no_grad()
def contributions(gaussians: Gaussians, view: View) -> Contributions:
    """What each Gaussian adds to each pixel of a view; as in the torch engine, but without gradient.

    gsplat lists which Gaussians show in which pixel; the weights are computed from its projection.
    """
    from gsplat import fully_fused_projection, isect_offset_encode, isect_tiles

    k = view.intrinsics
    size = (k.height, k.width)
    if len(gaussians) == 0:
        return _no_contributions(size, gaussians.device)
    radii, centers, depths, conics, _ = fully_fused_projection(
        gaussians.means,
        None,
        gaussians.quats,
        gaussians.scales,
        view.camera_from_world(gaussians.device)[None],
        _matrix(view, gaussians.device)[None],
        k.width,
        k.height,
        eps2d=DILATION,
        near_plane=NEAR,
        opacities=gaussians.opacities,
    )  # [1, N, 2], [1, N, 2], [1, N], [1, N, 3]
    rows, columns = math.ceil(k.height / _TILE), math.ceil(k.width / _TILE)
    _, crossings, owners = isect_tiles(centers, radii, depths, _TILE, columns, rows)  # [1, N], [I], [I]
    if owners.numel() == 0:
        return _no_contributions(size, gaussians.device)
    offsets = isect_offset_encode(crossings, 1, columns, rows)  # [1, rows, columns]
    ends = [*offsets[0, :, 0].tolist(), owners.numel()]  # of the crossings before each row of tiles
    found = [
        _band((first, last), offsets, owners[: ends[last]], centers, conics, gaussians.opacities, size)
        for first, last in _bands(ends, k.width)
    ]
    pixels, shown, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Contributions(pixels, shown, weights, size)


def _band(
    band: tuple[int, int],
    offsets: Tensor,
    owners: Tensor,
    centers: Tensor,
    conics: Tensor,
    opacities: Tensor,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, Gaussians and weights of the contributions to rows of tiles [first, last).

    A band of rows and not a range of depth: a pixel that has let all its light through in one range would be taken up
    again in the next, since the kernel does not say that it stopped.

    Args:
        owners: Gaussian of each crossing, up to the band's last: the kernel takes its end for that of the last tile.
    """
    from gsplat import rasterize_to_indices_in_range

    height, width = size
    first, last = band
    top = first * _TILE
    band_height = min(last * _TILE, height) - top
    shift = centers.new_tensor((0.0, float(top)))
    shown, pixels, _ = rasterize_to_indices_in_range(
        0,
        2**30,  # batches of a tile's Gaussians: all of them
        torch.ones((1, band_height, width), device=centers.device),
        centers - shift,
        conics,
        opacities[None],
        width,
        band_height,
        _TILE,
        offsets[:, first:last],
        owners,
    )
    pixels = pixels + top * width
    weights = pair_weights(pixels, shown, centers[0] - 0.5, conics[0], opacities, width)
    return pixels, shown, weights


def pair_weights(
    pixels: Tensor, owners: Tensor, centers: Tensor, conics: Tensor, opacities: Tensor, width: int
) -> Tensor:
    """Alpha times transmittance of pairs that are known to show [P].

    Args:
        pixels: flat index v * width + u, ascending [P].
        owners: index of the Gaussian; front to back within a pixel [P].
        centers: of the projected Gaussians; the centre of the first pixel is (0, 0) [N, 2].
        conics: as in :class:`~chorus_core.rendering.camera.Splats` [N, 3].
        opacities: [N].
    """
    v = torch.div(pixels, width, rounding_mode="floor")
    alphas = pair_alphas(pixels - v * width, v, centers[owners], conics[owners], opacities[owners])
    return alphas * transmittances(pixels, alphas)


def _bands(row_offsets: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of tiles, each with a bounded number of pairs.

    Args:
        row_offsets: at which (Gaussian, tile) crossing each row of tiles begins, and their number [rows + 1].
        width: of the view, pixels.
    """
    first, load = 0, 0
    for row in range(len(row_offsets) - 1):
        crossings = row_offsets[row + 1] - row_offsets[row]
        pairs = min(crossings * _TILE * _TILE, width * _TILE * _MAX_LAYERS)
        if load and load + pairs > _MAX_PAIRS:
            yield first, row
            first, load = row, 0
        load += pairs
    yield first, len(row_offsets) - 1


def _matrix(view: View, device: torch.device) -> Tensor:
    """Intrinsics for gsplat, which puts the centre of the first pixel at (0.5, 0.5) [3, 3]."""
    matrix = torch.tensor(view.intrinsics.matrix, dtype=torch.float32, device=device)
    matrix[:2, 2] += 0.5
    return matrix


def _no_contributions(size: tuple[int, int], device: torch.device) -> Contributions:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return Contributions(none, none, torch.zeros(0, device=device), size)
