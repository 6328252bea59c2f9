"""The teacher's losses: right features cost less than permuted ones, and nothing where nothing is known."""

from __future__ import annotations

import math

import pytest
import torch
from small_bank import DIM, NAMES

from training.language import LanguageTargets
from training.teaching.objectives import (
    MATCH_CELL,
    classifier_loss,
    generalist_loss,
    kept_loss,
    language_loss,
    object_loss,
)
from training.teaching.view_store import ViewBatch, ViewStore, plain_views


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def shuffled(features: torch.Tensor) -> torch.Tensor:
    """The same features at other cells."""
    flat = features.flatten(0, 2)
    return flat[torch.randperm(len(flat), generator=rng())].view_as(features)


@pytest.fixture
def batch(store: ViewStore) -> ViewBatch:
    return plain_views(store.scenes[0])


def place_features(points: torch.Tensor) -> torch.Tensor:
    """A unit feature of each place, smooth over the plane."""
    x, y = points.nan_to_num()[..., :2].unbind(-1)
    waves = [f(k * t) for t in (x, y) for k in (1, 2, 4, 8) for f in (torch.sin, torch.cos)]
    return torch.nn.functional.normalize(torch.stack(waves, -1), dim=-1)


def test_the_generalist_knows_places_again(batch: ViewBatch) -> None:
    right = place_features(batch.points)
    best = float(generalist_loss(right, batch.points, rng(), temperature=0.02))
    worse = float(generalist_loss(shuffled(right), batch.points, rng(), temperature=0.02))
    assert best < 0.5 * worse
    perfect = right.clone()
    unlike = generalist_loss(
        perfect, torch.where(torch.arange(2)[:, None, None, None] == 1, torch.nan, batch.points), rng()
    )
    assert float(unlike) == 0.0, "no place is seen twice"


def test_the_generalists_loss_against_brute_force() -> None:
    """Four places seen by both views of a pair, one by one view only, and one of another pair."""
    x = torch.tensor([0.01, 0.5, 1.0, 1.5, 2.0]).float()
    points = torch.zeros(4, 1, 5, 3)
    points[..., 0] = x
    points[1, 0, 4, 0] = 9.0
    points[2:] = torch.nan
    points[2, 0, 0] = points[3, 0, 0] = 0.03  # the same place as of the first pair, but another scene
    features = torch.nn.functional.normalize(torch.randn(4, 1, 5, 6, generator=rng()), dim=-1)
    found = generalist_loss(features, points, rng(), temperature=0.1)
    left = torch.cat((features[0, 0, :4], features[2, 0, :1])).double()
    right = torch.cat((features[1, 0, :4], features[3, 0, :1])).double()
    logits = left @ right.T / 0.1
    expected = 0.0
    for k in range(5):
        expected -= float(logits[k, k] - logits[k].logsumexp(0)) / 10
        expected -= float(logits[k, k] - logits[:, k].logsumexp(0)) / 10
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert MATCH_CELL == 0.08


def test_the_generalist_without_depth(batch: ViewBatch) -> None:
    features = place_features(batch.points).requires_grad_()
    loss = generalist_loss(features, torch.full_like(batch.points, math.nan), rng())
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(features.grad.abs().max()) == 0.0


def test_things_hold_together(batch: ViewBatch) -> None:
    directions = torch.nn.functional.normalize(torch.randn(4, 8, generator=rng()), dim=1)
    right = directions[batch.instance.clamp(min=0)]
    best, worse = float(object_loss(right, batch.instance)), float(object_loss(shuffled(right), batch.instance))
    assert best < 0.3 * worse
    wrong = right.clone()
    wrong[batch.instance == 0] = directions[1]
    assert float(object_loss(wrong, batch.instance)) > best


@pytest.mark.parametrize("known", [0, 5])
def test_too_few_cells_of_things_say_nothing(known: int) -> None:
    """Without a thing of eight cells there is nothing to tell apart."""
    features = torch.nn.functional.normalize(torch.randn(2, 3, 4, 8, generator=rng()), dim=-1).requires_grad_()
    instance = torch.full((2, 3, 4), -1)
    instance.view(-1)[:known] = torch.arange(known)
    loss = object_loss(features, instance)
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_language_is_what_things_are_called(batch: ViewBatch, bank: LanguageTargets) -> None:
    names = bank.name_embeddings()
    batch.color_word = ("",) * 4
    category = torch.tensor([NAMES.index(c) for c in batch.category])
    right = names[category[batch.instance.clamp(min=0)]]
    trained = torch.tensor([True] * 4 + [False] * 4)
    best = language_loss(right, batch, bank, trained, rng())
    worse = language_loss(shuffled(right), batch, bank, trained, rng())
    assert set(best) == {"lang.feature", "lang.text"}
    assert all(best[name] < 0.7 * worse[name] for name in best)


def test_cells_of_nothing_say_nothing_of_language(batch: ViewBatch, bank: LanguageTargets) -> None:
    batch.color_word = ("",) * 4
    batch.instance = torch.where(batch.instance == 0, -1, batch.instance)
    trained = torch.tensor([True, True, False, True] + [False] * 4)
    features = torch.nn.functional.normalize(torch.randn(2, 30, 40, DIM, generator=rng()), dim=-1)
    grads = {}
    for name in ("lang.feature", "lang.text"):
        leaf = features.clone().requires_grad_()
        language_loss(leaf, batch, bank, trained, rng())[name].backward()
        grads[name] = leaf.grad.abs().sum(-1)
    assert all(float(g[batch.instance < 0].max()) == 0.0 for g in grads.values())
    assert float(grads["lang.text"][batch.instance == 2].max()) == 0.0, "lamps are no candidate"
    assert float(grads["lang.feature"][batch.instance == 2].min()) > 0.0


def test_what_the_classifier_is_sure_of_counts_most() -> None:
    says = torch.randn(2, 3, 4, 16, generator=rng())
    unit = torch.nn.functional.normalize(says, dim=-1)
    assert float(classifier_loss(unit, says)) == pytest.approx(0.0, abs=1e-6)
    assert float(classifier_loss(-unit, says)) == pytest.approx(2.0)
    wrong = unit.clone()
    wrong[0, 0, 0] *= -1
    sure, unsure = says.clone(), says.clone()
    sure[0, 0, 0] *= 10
    unsure[0, 0, 0] *= 0.1
    assert float(classifier_loss(wrong, sure)) > 10 * float(classifier_loss(wrong, unsure)) > 0
    assert float(classifier_loss(unit, torch.zeros_like(says))) == 0.0
    coarse = torch.ones(1, 2, 2, 16)
    fine = torch.full((1, 6, 8, 16), 0.25)
    assert float(classifier_loss(fine, coarse)) == pytest.approx(0.0, abs=1e-6), "of any resolution"


def test_an_encoder_is_kept_relative_to_what_it_said() -> None:
    before = [torch.randn(1, c, 3, 4, generator=rng()) * scale for c, scale in ((4, 1.0), (8, 100.0))]
    assert float(kept_loss(before, before)) == 0.0
    assert float(kept_loss([1.5 * x for x in before], before)) == pytest.approx(0.25)
