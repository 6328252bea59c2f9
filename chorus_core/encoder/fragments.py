"""Several Gaussians or points in a voxel, read one after the other in several passes.

The n-th pass takes the n-th of each voxel, beginning anew where there are fewer, as upstream does when it tests with up
to eight "fragments" of a scene. Each point keeps the mean of what was said of it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from chorus_core.encoder.hierarchy import Level
from chorus_core.encoder.inputs import Voxels, rank_in_voxel
from chorus_core.encoder.placement import Placement

FRAGMENTS = 8


def mean_of_fragments(
    read: Callable[..., None],
    voxels: Voxels,
    levels: list[Level],
    channels: Tensor,
    priority: Tensor | None,
    widths: Mapping[str | None, int],
) -> dict[str | None, Tensor]:
    """Features of each point, the mean over the passes in which it stood for its voxel.

    Points that never did, as their voxel holds more than there are passes, take the mean over all passes.

    Args:
        read: encodes voxels and writes their features: of input channels [V, C], levels, a placement, heads and arrays.
        voxels: V of them.
        levels: of these voxels, the same for all passes.
        channels: input channels of each point [N, C].
        priority: larger comes first [N].
        widths: of each head.

    Returns:
        float32 [N, D] of each head, not normalised.
    """
    at = voxels.voxel_of_point
    rank, counts = rank_in_voxel(at, priority), torch.bincount(at)
    passes = min(FRAGMENTS, int(counts.max()))
    times = channels.new_zeros(len(at))
    own = {head: channels.new_zeros((len(at), width)) for head, width in widths.items()}
    whole = {head: channels.new_zeros((len(counts), width)) for head, width in widths.items()}
    found = {head: torch.empty_like(total, dtype=torch.float16) for head, total in whole.items()}
    everything = torch.arange(len(counts), device=at.device)
    for number in range(passes):
        chosen = (rank == number % counts[at]).nonzero().squeeze(1)
        stands = torch.empty_like(counts)
        stands[at[chosen]] = chosen
        read(channels[stands], levels, Placement(everything, everything), dict.fromkeys(widths), found)
        for head, features in found.items():
            own[head][stands] += features
            whole[head] += features
        times[stands] += 1
    never = times == 0
    times[never] = float(passes)
    for head, total in own.items():
        total[never] = whole[head][at[never]]
    return {head: total / times[:, None] for head, total in own.items()}
