"""What a teacher wants of each voxel. A new teacher is one more class with these three members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chorus_core.distillation.losses import bank_contrast, feature_loss, split_contrast
from training.language import LanguageTargets
from training.scene_store import Batch


class TeacherTarget(Protocol):
    """One teacher's part of the objective.

    Attributes:
        head: name of the projector it trains.
        dim: width of its features.
    """

    head: str
    dim: int

    def loss(self, predicted: Tensor, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """Weighted loss terms by name, of predictions [V, dim] for a batch."""
        ...


@dataclass
class LanguageTarget:
    """Text embeddings of what people call and say of the thing a voxel belongs to.

    Every instance draws a phrase of its own at every step, so that the prediction settles on what the phrases share.

    Attributes:
        bank: the embedded phrases.
        trained: which categories may be candidates of the contrast (those training scenes hold), bool [C].
        eta: weight of the split-half contrast (0.02 in the paper).
        bank_weight: weight of the contrast against the names of all trained categories.
    """

    bank: LanguageTargets
    trained: Tensor
    eta: float = 0.02
    bank_weight: float = 0.5
    head: str = "lang"

    @property
    def dim(self) -> int:
        return self.bank.embeddings.shape[1]

    def loss(self, predicted: Tensor, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        known = batch.instance >= 0
        instance = batch.instance.clamp(min=0)
        category = torch.where(known, batch.category[instance], -1)  # [V]
        weights = balance(category, len(self.bank.categories))
        phrases = self.bank.sample(batch.category, batch.color, rng=rng)  # [I, dim]
        candidates = self.trained.nonzero().squeeze(1)
        place = torch.full((len(self.bank.categories),), -1, device=predicted.device)
        place[candidates] = torch.arange(candidates.numel(), device=predicted.device)
        groups = torch.where(known, place[category.clamp(min=0)], -1)
        names = self.bank.name_embeddings()[candidates]
        return {
            "feature": feature_loss(predicted, phrases[instance], weights),
            "split": self.eta * split_contrast(predicted, category, rng),
            "bank": self.bank_weight * bank_contrast(predicted, names, groups, weights),
        }


def balance(category: Tensor, categories: int, power: float = 0.5) -> Tensor:
    """Weight of each voxel [V]: a category counts with this power of its size in the batch; 0 for category -1."""
    counts = torch.bincount(category.clamp(min=0), weights=(category >= 0).float(), minlength=categories)
    weights = counts.clamp(min=1.0) ** (power - 1.0)
    weights = weights[category.clamp(min=0)] * (category >= 0)
    return weights / weights.mean().clamp(min=1e-9)
