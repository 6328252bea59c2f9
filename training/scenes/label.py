"""Ground-truth instances for Gaussians: projected into noise-free views, they vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chorus_core.frames import CameraIntrinsics

UNLABELLED = -1


@dataclass(frozen=True)
class LabelView:
    """Noise-free depth float32 [H, W] (metres) and instance int32 [H, W] (-1 = none) seen by one camera."""

    depth: np.ndarray
    instance: np.ndarray
    intrinsics: CameraIntrinsics
    world_from_camera: np.ndarray  # [4, 4]


def vote_labels(
    means: np.ndarray,
    views: Sequence[LabelView],
    num_instances: int,
    *,
    tolerance: float = 0.03,
    tolerance_slope: float = 0.01,
    majority: float = 0.5,
) -> np.ndarray:
    """The instance each point belongs to, by majority of the views that see it.

    A view sees a point when the point projects into it and its depth is within ``tolerance + tolerance_slope * z`` of
    the surface there. Nearer views weigh more (1 / z), since there a pixel covers less.

    Args:
        means: points in the world frame, metres [N, 3].
        num_instances: instances are numbered from 0 to this, exclusive.
        majority: share of the votes the winner must exceed.

    Returns:
        int32 [N]; -1 where nothing saw the point or no instance has the majority.
    """
    means = np.asarray(means, np.float64)
    n = len(means)
    votes = np.zeros(n * num_instances, np.float32)
    total = np.zeros(n, np.float32)
    for view in views:
        rotation, origin = view.world_from_camera[:3, :3], view.world_from_camera[:3, 3]
        camera = (means - origin) @ rotation  # [N, 3]
        z = camera[:, 2]
        near = np.flatnonzero(z > 0.05)
        k = view.intrinsics
        x = np.rint(camera[near, 0] / z[near] * k.fx + k.cx)
        y = np.rint(camera[near, 1] / z[near] * k.fy + k.cy)
        inside = (x >= 0) & (x < k.width) & (y >= 0) & (y < k.height)
        index, x, y = near[inside], x[inside].astype(int), y[inside].astype(int)
        surface = view.depth[y, x]
        seen = (surface > 0) & (np.abs(surface - z[index]) < tolerance + tolerance_slope * z[index])
        index, found = index[seen], view.instance[y[seen], x[seen]]
        known = found >= 0
        index, found = index[known], found[known]
        weight = (1.0 / z[index]).astype(np.float32)
        votes[index * num_instances + found] += weight  # a point projects once a view: no duplicates
        total[index] += weight
    votes = votes.reshape(n, num_instances)
    if num_instances == 0:
        return np.full(n, UNLABELLED, np.int32)
    winner = votes.argmax(axis=1)
    clear = votes[np.arange(n), winner] > majority * total
    return np.where(clear & (total > 0), winner, UNLABELLED).astype(np.int32)
