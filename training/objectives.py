"""What a teacher wants of each voxel: its share of the loss (arXiv 2512.17817, objectives)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from chorus_core.distillation.losses import bank_contrast, feature_loss, split_contrast
from chorus_core.semantics.relevancy import classify
from training.configs import SCHEDULES, TeacherConfig
from training.distributed import ALONE, World
from training.language import COLORS, LanguageTargets
from training.phi_s import PhiS
from training.scene_store import Batch, SceneStore


@dataclass(frozen=True)
class ClassTexts:
    """Names of classes as texts.

    Attributes:
        embeddings: unit, of all C names [C, D].
        trained: names of classes that training scenes hold, bool [C].
        candidates: their embeddings [K, D].
        place: of each class among the candidates, -1 = none, int64 [C].
    """

    embeddings: Tensor
    trained: Tensor
    candidates: Tensor = field(init=False)
    place: Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", self.embeddings[self.trained])
        object.__setattr__(self, "place", torch.where(self.trained, self.trained.cumsum(0) - 1, -1))


@dataclass
class TeacherObjective:
    """One teacher's part of the objective.

    Attributes:
        config: its weights and schedule.
        phi_s: standardisation of its targets, if any.
        texts: of the classes, where names are contrasted.
        bank: phrases, where these are the targets.
        world: the processes that share a batch.
    """

    config: TeacherConfig
    phi_s: PhiS | None = None
    texts: ClassTexts | None = None
    bank: LanguageTargets | None = None
    world: World = ALONE

    def __post_init__(self) -> None:
        if self.config.target == "phrases" and self.bank is None:
            raise ValueError(f"teacher {self.config.head!r} learns phrases: give it a language bank (--bank)")
        if self.config.text_weight > 0 and self.texts is None:
            raise ValueError(f"teacher {self.config.head!r} contrasts class names: the scenes declare none")

    def active(self, progress: float) -> bool:
        """Whether it has joined at that share of the steps."""
        return progress >= self.config.starts_at

    def loss(self, predicted: Tensor, batch: Batch, rng: torch.Generator, progress: float) -> dict[str, Tensor]:
        """Weighted loss terms of predictions [V, D] at that share of the steps.

        The terms of several processes average to those of the batch they share.

        Args:
            rng: of the predictions' device.
        """
        target, valid = self._target(batch, rng)
        balance = class_balance(batch.segment, self.config.class_power, self.world)
        weights = balance * valid
        terms = {
            "feature": self.config.weight * feature_loss(predicted, target, weights, self.world.share(weights.sum()))
        }
        if self.config.contrast != "none" and progress >= SCHEDULES[self.config.schedule]:
            contrast = split_contrast(predicted, self._groups(batch), rng, total=self.world.total)
            terms["contrast"] = self.config.contrast_weight * contrast
        if self.config.text_weight > 0:
            terms["text"] = self.config.text_weight * self._text_contrast(predicted, batch.segment, balance)
        return terms

    def _groups(self, batch: Batch) -> Tensor:
        """What the contrastive term groups by, numbered alike in all processes: int64 [V], -1 = none."""
        if self.config.contrast == "segment":
            return batch.segment
        first = self.world.rank * self.world.highest(len(batch.category))
        return torch.where(batch.instance >= 0, batch.instance + first, -1)

    def _target(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features [V, D] and where they count, bool [V]."""
        if self.config.target == "phrases":
            return self._phrases(batch, rng)
        target = batch.targets[self.config.head]
        return (target if self.phi_s is None else self.phi_s.forward(target)), batch.valid[self.config.head]

    def _phrases(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A phrase of its own for every instance at every step, so that predictions settle on what phrases share."""
        words, device = list(COLORS), batch.segment.device
        category = torch.tensor([self.bank.index(c) for c in batch.category], device=device)
        color = torch.tensor([words.index(c) if c in words else -1 for c in batch.color], device=device)
        phrases = self.bank.sample(category, color, rng=rng)
        return phrases[batch.instance.clamp(min=0)], batch.instance >= 0

    def _text_contrast(self, predicted: Tensor, segment: Tensor, balance: Tensor) -> Tensor:
        groups = torch.where(segment >= 0, self.texts.place[segment.clamp(min=0)], -1)
        weights = balance * (groups >= 0)
        whole = self.world.share(weights.sum())
        return bank_contrast(predicted, self.texts.candidates, groups, weights, whole=whole)


def class_balance(segment: Tensor, power: float, world: World = ALONE) -> Tensor:
    """Weight of each voxel [V], of mean 1; over several processes, on the same scale and of mean 1 on average.

    A class of n voxels of the whole batch counts as n ** power; no class (-1) counts as one.
    """
    if power == 1.0:
        return torch.ones(segment.shape, device=segment.device)
    counts = world.total(torch.bincount(segment + 1))
    weights = counts.clamp(min=1).float()[segment + 1] ** (power - 1.0)
    return weights / world.share(weights.mean())


def fit_phi_s(store: SceneStore, teachers: Sequence[TeacherConfig], seed: int, scenes: int = 64) -> dict[str, PhiS]:
    """The standardisation of each teacher that wants one, from rows of a seeded choice of scenes."""
    wanted = [t.head for t in teachers if t.phi_s]
    if not wanted:
        return {}
    rng = np.random.default_rng([seed, 7])
    rows: dict[str, list[Tensor]] = {head: [] for head in wanted}
    for index in rng.permutation(len(store))[:scenes].tolist():
        scene = store[index]
        for head in wanted:
            table = scene.features[head].table
            picks = torch.from_numpy(rng.integers(0, max(1, len(table)), min(2000, len(table))))
            rows[head].append(table[picks].float())
    return {head: PhiS.fit(torch.cat(parts)) for head, parts in rows.items()}


def named_by_teacher(batch: Batch, head: str, texts: ClassTexts) -> Batch:
    """The batch with the class of a voxel taken from its lifted language features: the candidate they are closest to.

    Voxels without such features have none; instances are gone.
    """
    classes = torch.nonzero(texts.trained).flatten()
    nearest, _ = classify(batch.targets[head], texts.candidates)
    segment = torch.where(batch.valid[head], classes[nearest], -1)
    return replace(batch, segment=segment, instance=torch.full_like(batch.instance, -1))


def class_texts(names: Tensor, store: SceneStore | None) -> ClassTexts:
    """Embedded class names [C, D]; marked as trained are those that scenes of the store really hold, or all."""
    if store is None:
        return ClassTexts(names, torch.ones(len(names), dtype=torch.bool, device=names.device))
    held = torch.zeros(len(store.classes), dtype=torch.bool)
    for index in range(len(store)):
        segment = store[index].segment
        held[torch.unique(segment[segment >= 0])] = True
    return ClassTexts(names, held.to(names.device))
