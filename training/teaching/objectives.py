"""The three objectives of the embedded teacher, one a head; each works on cells of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from chorus_core.distillation.losses import bank_contrast, feature_loss
from training.language import COLORS, LanguageTargets
from training.objectives import class_balance
from training.teaching.view_store import ViewBatch

MATCH_CELL = 0.08
"""Metres within which cells of two views count as the same place."""


def language_loss(
    features: Tensor, batch: ViewBatch, bank: LanguageTargets, trained: Tensor, rng: torch.Generator
) -> dict[str, Tensor]:
    """Texts of what a cell shows: a phrase a thing, and the names of all trained categories as each other's contrast.

    Args:
        features: unit [B, h, w, D].
        trained: categories that training rooms may hold, bool [C].
    """
    words, device = list(COLORS), features.device
    category = torch.tensor([bank.index(c) for c in batch.category], device=device)
    color = torch.tensor([words.index(c) if c in words else -1 for c in batch.color_word], device=device)
    phrases = bank.sample(category, color, rng=rng)  # [I, D]
    instance, flat = batch.instance.flatten(), features.flatten(0, 2)
    known = instance >= 0
    segment = torch.where(known, category[instance.clamp(min=0)], -1)
    weights = class_balance(segment, 0.5) * known
    place = torch.where(trained, trained.cumsum(0) - 1, -1)
    groups = torch.where(known, place[segment.clamp(min=0)], -1)
    return {
        "lang.feature": feature_loss(flat, phrases[instance.clamp(min=0)], weights),
        "lang.text": bank_contrast(flat, bank.name_embeddings()[trained], groups, weights),
    }


def classifier_loss(features: Tensor, says: Tensor) -> Tensor:
    """Learned features remember what the encoder's classifier says: 1 - cosine, where it is sure more than elsewhere.

    Args:
        features: unit [B, h, w, D].
        says: of a length that grows with how sure it is, at any resolution [B, h', w', D].
    """
    says = functional.interpolate(says.permute(0, 3, 1, 2), size=features.shape[1:3], mode="bilinear")
    target = says.permute(0, 2, 3, 1).float()
    sure = target.norm(dim=-1)
    return (sure - (features * target).sum(dim=-1)).sum() / sure.sum().clamp(min=1e-6)


def kept_loss(stages: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """How far a tuned encoder has left the one it began as: squared distance by squared length, mean over stages.

    Args:
        stages, before: outputs of both on the same images [B, C, h, w] each.
    """
    pairs = [(a.float(), b.float()) for a, b in zip(stages, before, strict=True)]
    return torch.stack([(a - b).square().mean() / b.square().mean().clamp(min=1e-6) for a, b in pairs]).mean()


def generalist_loss(
    features: Tensor, points: Tensor, rng: torch.Generator, places: int = 2048, temperature: float = 0.07
) -> Tensor:
    """The same place in two views must be known again among places of all scenes of the batch: InfoNCE, no labels.

    Args:
        features: unit [B, h, w, D]; views 2i and 2i + 1 are a pair.
        points: world positions, NaN without depth [B, h, w, 3].
        places: of each batch at most.
    """
    batch, height, width, dim = features.shape
    view = torch.arange(batch, device=features.device)[:, None, None].expand(-1, height, width)
    seen = torch.isfinite(points).all(dim=-1)
    cell = torch.floor(points[seen] / MATCH_CELL).long() + (1 << 14)
    pair, side = view[seen] // 2, view[seen] % 2
    key = ((pair << 15 | cell[:, 0]) << 15 | cell[:, 1]) << 15 | cell[:, 2]
    _, place = torch.unique(key, return_inverse=True)
    count = int(place.max()) + 1 if place.numel() else 0
    sums = features.new_zeros((2 * count, dim)).index_add_(0, 2 * place + side, features[seen].float())
    hits = torch.bincount(2 * place + side, minlength=2 * count).view(-1, 2)
    both = (hits > 0).all(dim=1).nonzero().squeeze(1)
    if both.numel() < 2:
        return features.sum() * 0.0
    chosen = both[torch.randperm(both.numel(), generator=rng, device=both.device)[:places]]
    halves = functional.normalize(sums.view(-1, 2, dim)[chosen], dim=-1)
    logits = halves[:, 0] @ halves[:, 1].T / temperature
    diagonal = torch.arange(chosen.numel(), device=logits.device)
    return (functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)) / 2


def object_loss(features: Tensor, instance: Tensor, temperature: float = 0.1, min_cells: int = 8) -> Tensor:
    """A cell must be nearest to the mean of its own thing, taken over both views, among all things of the batch.

    Args:
        features: unit [B, h, w, D].
        instance: of each cell among those of the batch, -1 = none [B, h, w].
    """
    flat, instance = features.flatten(0, 2).float(), instance.flatten()
    known = instance >= 0
    if not bool(known.any()):
        return features.sum() * 0.0
    things, group, counts = torch.unique(instance[known], return_inverse=True, return_counts=True)
    sums = flat.new_zeros((things.numel(), flat.shape[1])).index_add_(0, group, flat[known])
    means = functional.normalize(sums, dim=1)
    kept = counts >= min_cells
    if not bool(kept.any()):
        return features.sum() * 0.0
    place = torch.where(kept, kept.cumsum(0) - 1, -1)[group]
    weights = counts[group].float() ** -0.5  # large walls would drown the rest
    return bank_contrast(flat[known], means[kept], place, weights / weights.mean(), temperature)
