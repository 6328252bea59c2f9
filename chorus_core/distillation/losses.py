"""Losses of multi-teacher pretraining (arXiv 2512.17817, objectives; SceneSplat for the contrastive term)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def feature_loss(predicted: Tensor, target: Tensor, weights: Tensor, whole: Tensor | None = None) -> Tensor:
    """(1 - cosine) + SmoothL1 between predicted and teacher features, a weighted mean over Gaussians.

    Args:
        predicted: [N, D].
        target: [N, D].
        weights: non-negative; 0 where the teacher says nothing [N].
        whole: what the mean divides by; the sum of the weights by default. For a part of a batch, see
            :class:`training.distributed.World`.
    """
    predicted, target = predicted.float(), target.float()
    cosine = 1.0 - functional.cosine_similarity(predicted, target, dim=1)
    smooth = functional.smooth_l1_loss(predicted, target, reduction="none").sum(dim=1)
    return _mean(cosine + smooth, weights, whole)


def split_contrast(
    features: Tensor,
    groups: Tensor,
    generator: torch.Generator,
    temperature: float = 0.2,
    min_count: int = 100,
    total: Callable[[Tensor], Tensor] = lambda table: table,
) -> Tensor:
    """Contrast between groups: the two random halves of each must resemble each other more than other groups' halves.

    Args:
        features: [N, D].
        groups: class or instance of each, -1 = none, int64 [N].
        generator: of the features' device.
        min_count: smaller groups are left out.
        total: sums a table by group [G, ...] over the parts of a batch that others hold, whose groups are numbered
            alike.
    """
    valid = groups >= 0
    features, group = features[valid].float(), groups[valid]
    counts = torch.bincount(group)
    half = torch.randint(0, 2, group.shape, generator=generator, device=group.device)
    sums = features.new_zeros((2 * counts.numel(), features.shape[1])).index_add_(0, 2 * group + half, features)
    sums, counts = total(sums.view(-1, 2, features.shape[1])), total(counts)
    halves = functional.normalize(sums[counts >= min_count], dim=-1)  # [G, 2, D]
    if halves.shape[0] < 2:
        return features.sum() * 0.0
    logits = halves[:, 0] @ halves[:, 1].T / temperature
    diagonal = torch.arange(logits.shape[0], device=logits.device)
    return (functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)) / 2


def bank_contrast(
    features: Tensor,
    bank: Tensor,
    groups: Tensor,
    weights: Tensor,
    temperature: float = 0.07,
    whole: Tensor | None = None,
) -> Tensor:
    """Contrast against a bank of class embeddings: InfoNCE (van den Oord et al. 2018) with every class as candidate.

    Args:
        features: unit length [N, D].
        bank: unit length [K, D].
        groups: class of each, -1 = none, int64 [N].
        weights: non-negative; no matter where there is no class [N].
        whole: as in :func:`feature_loss`.
    """
    weights = weights * (groups >= 0)
    logits = features @ bank.T.to(features.dtype) / temperature
    loss = functional.cross_entropy(logits.float(), groups.clamp(min=0), reduction="none")
    return _mean(loss, weights, whole)


def _mean(values: Tensor, weights: Tensor, whole: Tensor | None) -> Tensor:
    return (values * weights).sum() / (weights.sum() if whole is None else whole).clamp(min=1e-6)
