"""Normals of point clouds that come without."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

_BATCH = 262_144


def estimate_normals(points: Tensor, neighbours: int = 16, asked: Tensor | None = None) -> Tensor:
    """Unit normals [N, 3], of either sign: the direction in which a point's neighbours spread least.

    Points with fewer than three distinct neighbours, which span no plane, get a direction across them.

    Args:
        points: metres [N, 3]; worked on on the CPU, returned where they were.
        neighbours: nearest points of each, itself included.
        asked: which points normals are returned of, bool [N]; all by default.
    """
    if len(points) == 0:
        return points.new_zeros((0, 3))
    host = points.detach().cpu().double().numpy()
    queries = host if asked is None else host[asked.cpu().numpy()]
    tree, count = cKDTree(host), min(neighbours, len(host))
    normals = [points.new_zeros((0, 3)).cpu().double()]
    for start in range(0, len(queries), _BATCH):
        places = tree.query(queries[start : start + _BATCH], k=count, workers=-1)[1].reshape(-1, count)
        near = torch.from_numpy(host[places])  # [B, k, 3]
        spread = near - near.mean(dim=1, keepdim=True)
        normals.append(torch.linalg.eigh(spread.mT @ spread).eigenvectors[:, :, 0])
    return torch.cat(normals).to(points.device, torch.float32)


def complete_normals(points: Tensor, normals: Tensor | None) -> Tensor:
    """Normals [N, 3], estimated where they are zero or none are given.

    Args:
        points: metres [N, 3].
        normals: of any length and either sign [N, 3].
    """
    if normals is None:
        return estimate_normals(points)
    unknown = ~normals.any(dim=1)
    if not unknown.any():
        return normals
    complete = normals.clone()
    complete[unknown] = estimate_normals(points, asked=unknown).to(normals.dtype)
    return complete
