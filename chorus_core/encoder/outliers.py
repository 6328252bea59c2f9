"""Gaussians that a photometric fit leaves behind and no surface has: blown up, or floating alone."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from chorus_core.gaussians import Gaussians

_LARGEST_METRES, _LEAST_SPREAD = 10.0, 0.1
_FLOATERS, _ENOUGH_NEIGHBOURS = 0.005, 3
_REACH, _FARTHEST_METRES = 0.25, 2.0


def inliers(gaussians: Gaussians, deviations: float = 5.0) -> Tensor:
    """Which Gaussians are worth encoding, bool [N] on their device.

    Left out, with the release's figures, are those

    - whose largest standard deviation is above 10 m, or its logarithm more than ``deviations`` times the median
      absolute deviation (taken as 0.1 at least) above the median;
    - and among the 0.5 % largest, those with fewer than 3 others within 0.25 sqrt(largest standard deviation) metres,
      2 m at most.
    """
    if len(gaussians) == 0:
        return torch.zeros(0, dtype=torch.bool, device=gaussians.device)
    size = gaussians.scales.amax(dim=1).double().clamp(min=1e-12)  # [N]
    excess = size.log() - size.log().median()
    kept = (excess <= deviations * excess.abs().median().clamp(min=_LEAST_SPREAD)) & (size <= _LARGEST_METRES)
    suspects = torch.topk(size, max(1, round(_FLOATERS * len(size)))).indices
    radius = (_REACH * size[suspects].sqrt()).clamp(max=_FARTHEST_METRES)
    means = gaussians.means.double().cpu().numpy()
    suspect_means = means[suspects.cpu().numpy()]
    near = cKDTree(means).query_ball_point(suspect_means, radius.cpu().numpy(), return_length=True, workers=-1)
    others = torch.as_tensor(near, device=kept.device) - 1
    kept[suspects] &= others >= _ENOUGH_NEIGHBOURS
    return kept
