"""Losses of multi-teacher pretraining (arXiv 2512.17817, objectives; SceneSplat for the contrastive term)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def feature_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """(1 - cosine) + SmoothL1 between predicted and teacher features, a weighted mean over Gaussians.

    Args:
        predicted: [N, D].
        target: [N, D].
        weights: non-negative; 0 where the teacher says nothing [N].
    """
    predicted, target = predicted.float(), target.float()
    cosine = 1.0 - functional.cosine_similarity(predicted, target, dim=1)
    smooth = functional.smooth_l1_loss(predicted, target, reduction="none").sum(dim=1)
    return ((cosine + smooth) * weights).sum() / weights.sum().clamp(min=1e-6)


def split_contrast(
    features: Tensor, groups: Tensor, generator: torch.Generator, temperature: float = 0.2, min_count: int = 100
) -> Tensor:
    """Contrast between groups: the two random halves of each must resemble each other more than other groups' halves.

    Args:
        features: [N, D].
        groups: class or instance of each, -1 = none, int64 [N].
        generator: of the features' device.
        min_count: smaller groups are left out.
    """
    valid = groups >= 0
    features, groups = features[valid].float(), groups[valid]
    if groups.numel() == 0:
        return features.sum() * 0.0
    _, group, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    half = torch.randint(0, 2, group.shape, generator=generator, device=group.device)
    sums = features.new_zeros((2 * counts.numel(), features.shape[1])).index_add_(0, 2 * group + half, features)
    halves = functional.normalize(sums.view(-1, 2, features.shape[1])[counts >= min_count], dim=-1)  # [G, 2, D]
    if halves.shape[0] < 2:
        return features.sum() * 0.0
    logits = halves[:, 0] @ halves[:, 1].T / temperature
    diagonal = torch.arange(logits.shape[0], device=logits.device)
    return (functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)) / 2


def bank_contrast(features: Tensor, bank: Tensor, groups: Tensor, weights: Tensor, temperature: float = 0.07) -> Tensor:
    """Contrast against a bank of class embeddings: InfoNCE (van den Oord et al. 2018) with every class as candidate.

    Args:
        features: unit length [N, D].
        bank: unit length [K, D].
        groups: class of each, -1 = none, int64 [N].
        weights: non-negative [N].
    """
    weights = weights * (groups >= 0)
    logits = features @ bank.T.to(features.dtype) / temperature
    loss = functional.cross_entropy(logits.float(), groups.clamp(min=0), reduction="none")
    return (loss * weights).sum() / weights.sum().clamp(min=1e-6)
