"""A set of 3D Gaussians as a structure of arrays: what maps hand out, files hold, renderers draw and encoders read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

SH_C0 = 0.28209479177387814
"""Zeroth real spherical harmonic: colour = 0.5 + SH_C0 * f_dc (3DGS, Kerbl et al. 2023)."""


@dataclass
class Gaussians:
    """N Gaussians in one world frame, float32, on one device.

    Attributes:
        means: centres, metres [N, 3].
        quats: unit rotation world_from_gaussian, wxyz [N, 4].
        scales: standard deviations along the Gaussian's own axes, metres [N, 3].
        opacities: in [0, 1] [N].
        colors: RGB in [0, 1], view independent [N, 3].
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        expected = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "colors": (n, 3)}
        for name, shape in expected.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape:
                raise ValueError(f"Gaussians.{name} has shape {tuple(tensor.shape)}: expected {shape}")

    def __len__(self) -> int:
        return self.means.shape[0]

    def __getitem__(self, index: Tensor | slice) -> Gaussians:
        """The Gaussians selected by a mask, index tensor or slice."""
        return Gaussians(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device: torch.device | str) -> Gaussians:
        return Gaussians(*(getattr(self, f.name).to(device) for f in fields(self)))

    @property
    def device(self) -> torch.device:
        return self.means.device

    @classmethod
    def empty(cls, device: torch.device | str = "cpu") -> Gaussians:
        return cls(*(torch.zeros(shape, device=device) for shape in ((0, 3), (0, 4), (0, 3), (0,), (0, 3))))

    @classmethod
    def cat(cls, parts: Sequence[Gaussians]) -> Gaussians:
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))
