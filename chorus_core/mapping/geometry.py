"""Small geometric functions of the map."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def quats_from_normals(normals: Tensor) -> Tensor:
    """The shortest rotation that turns +z onto each unit normal, wxyz with w >= 0 [N, 4] of [N, 3].

    Convention: world_from_gaussian; the Gaussian's own z axis is the surface normal. A normal and its opposite
    describe the same disc; the one with non-negative z is used, so that w stays away from zero.
    """
    n = torch.where(normals[:, 2:] < 0, -normals, normals)
    zeros = torch.zeros_like(n[:, 0])
    quats = torch.stack((1.0 + n[:, 2], -n[:, 1], n[:, 0], zeros), dim=1)
    return torch.nn.functional.normalize(quats, dim=1)


def rotations_from_quats(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of unit quaternions wxyz [..., 4]."""
    w, x, y, z = quats.unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*quats.shape[:-1], 3, 3)


def motion_between(world_from_a: np.ndarray, world_from_b: np.ndarray) -> tuple[float, float]:
    """How far apart two poses [4, 4] are: metres, and radians of the rotation between them.

    The angle comes from the chord between the rotations, |R_a - R_b| = 2 sqrt(2) sin(angle / 2), which is exact near
    zero, where the trace is not.
    """
    distance = float(np.linalg.norm(world_from_b[:3, 3] - world_from_a[:3, 3]))
    chord = float(np.linalg.norm(world_from_b[:3, :3] - world_from_a[:3, :3]))
    return distance, 2.0 * float(np.arcsin(min(chord / np.sqrt(8.0), 1.0)))
