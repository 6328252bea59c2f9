"""Which scenes and which labels a data-efficient probe may learn from. The code and a seed are the split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def choose_scenes(folders: Sequence[Path], fraction: float, seed: int) -> list[Path]:
    """A share of the scenes, by the hash of seed and name: smaller shares are parts of larger ones.

    Args:
        folders: whose last part is the scene's name.
        fraction: in (0, 1].

    Returns:
        At least one scene, in the order given.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"scene fraction = {fraction}: expected (0, 1]")
    count = max(1, round(fraction * len(folders)))
    chosen = set(sorted(folders, key=lambda folder: (_hash(seed, folder.name), folder))[:count])
    return [folder for folder in folders if folder in chosen]


def keep_points(segment: Tensor, count: int | None, name: str, seed: int) -> Tensor:
    """Labels with all but ``count`` random ones set to -1; fewer points are a part of more.

    Args:
        segment: class of each Gaussian, -1 = ignore, on the CPU [N].
        count: labels to keep; None keeps all.
        name: of the scene, which draws its points by its own hash.

    Raises:
        ValueError: the count is not positive.
    """
    if count is None:
        return segment
    if count < 1:
        raise ValueError(f"points per scene = {count}: expected at least 1")
    labelled = (segment >= 0).nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(_hash(seed, name) >> 2)
    kept = labelled[torch.randperm(len(labelled), generator=generator)[:count]]
    out = torch.full_like(segment, -1)
    out[kept] = segment[kept]
    return out


def _hash(seed: int, name: str) -> int:
    """A number of 64 bits that depends on nothing but the two."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")
