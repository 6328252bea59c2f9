"""The one way in which features are made: whoever maps, encodes a file, calibrates or evaluates calls this."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.config import EncoderConfig
from chorus_core.encoder.encoder import ChorusEncoder, EncodeOptions
from chorus_core.encoder.inputs import grid_origin
from chorus_core.encoder.smoothing import smooth
from chorus_core.gaussians import Gaussians


@dataclass(frozen=True)
class OrientedPoints:
    """What the point variant of a model reads.

    Attributes:
        means: metres, z up [N, 3].
        colors: in [0, 1] [N, 3].
        normals: [N, 3].
    """

    means: Tensor
    colors: Tensor
    normals: Tensor

    def __len__(self) -> int:
        return len(self.means)


def encode_features(
    encoder: ChorusEncoder,
    scene: Gaussians | OrientedPoints,
    options: EncoderConfig | None = None,
    *,
    head: str | None = "lang",
    basis: Tensor | None = None,
    grid_size: float | None = None,
    wanted: Tensor | None = None,
) -> Tensor:
    """Features of Gaussians or points: encoded in tiles that fit a pass, in the compact space, smoothed.

    The grid begins at the world's own corner in plan, so that a part of a map is pooled as it was when more or less of
    it was there. In height it begins at the lowest cell, as in training: a floor must not lie on the border of pooled
    cells.

    Args:
        scene: N of them, in any frame with z up.
        options: size of a pass, halo, several in a voxel, and rounds of smoothing; the defaults of the pipeline.
        head: teacher space; None gives the upcast features.
        basis: orthonormal columns to store features in [D, d]; None keeps them as they are.
        grid_size: edge of the encoder's voxels, metres; that of the options by default. A map is encoded on its own
            grid where that is coarser: see :func:`encoding_grid`.
        wanted: which of them features are returned of, bool [N], the others being context; all by default.

    Returns:
        float16 on the encoder's device [W, d].

    Raises:
        KeyError: no such head.
        ValueError: the model reads other input, or ``options.memory_gib`` does not suffice.
    """
    options = options or EncoderConfig()
    size = grid_size or options.grid_size or encoder.grid_size
    origin = grid_origin(scene.means, size) if len(scene) else torch.zeros(3, dtype=torch.int64)
    origin[:2] = 0
    how = EncodeOptions(
        grid_size=size, max_points=options.max_gaussians, memory_gib=options.memory_gib, halo=options.halo,
        per_voxel=options.per_voxel, origin=origin, asked=wanted,
    )  # fmt: skip
    if isinstance(scene, OrientedPoints):
        found = encoder.encode_points(scene.means, scene.colors, scene.normals, head, basis, **how)
    else:
        found = encoder.encode(scene, head, basis, **how)
    return smooth(found, scene.means if wanted is None else scene.means[wanted], size, options.smoothing)


def encoding_grid(encoder: ChorusEncoder, voxel_size: float, options: EncoderConfig | None = None) -> float:
    """Edge of the voxels to encode a map at, metres: what options or model say, or the map's if that is coarser."""
    return max(voxel_size, (options or EncoderConfig()).grid_size or encoder.grid_size)
