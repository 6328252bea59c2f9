"""The losses against their formulas in float64 numpy, point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus_core.distillation.losses import bank_contrast, feature_loss, split_contrast


def unit(array: np.ndarray) -> np.ndarray:
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def cross_entropy(logits: np.ndarray, wanted: int) -> float:
    shifted = logits - logits.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[wanted])


@pytest.mark.parametrize("spread", [0.1, 3.0])  # on both sides of the corner of SmoothL1
def test_feature_loss(spread: float) -> None:
    rng = np.random.default_rng(0)
    predicted, target, weights = rng.normal(0, spread, (40, 6)), rng.normal(0, spread, (40, 6)), rng.random(40)
    weights[:5] = 0.0
    total = 0.0
    for p, t, w in zip(predicted, target, weights, strict=True):
        cosine = p @ t / np.linalg.norm(p) / np.linalg.norm(t)
        smooth = sum(0.5 * d * d if d < 1 else d - 0.5 for d in np.abs(p - t))
        total += w * (1 - cosine + smooth)
    found = feature_loss(*(torch.from_numpy(a).float() for a in (predicted, target, weights)))
    assert float(found) == pytest.approx(total / weights.sum(), rel=1e-5)


def test_feature_loss_is_zero_at_the_target_and_without_weight() -> None:
    features = torch.nn.functional.normalize(torch.randn(10, 8), dim=1)
    assert float(feature_loss(features, features, torch.ones(10))) == pytest.approx(0.0, abs=1e-6)
    predicted = torch.randn(10, 8, requires_grad=True)
    loss = feature_loss(predicted, features, torch.zeros(10))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert (predicted.grad == 0).all()


def test_split_contrast() -> None:
    rng = np.random.default_rng(1)
    features, groups = rng.normal(size=(600, 5)), rng.integers(-1, 4, 600)
    groups[groups == 3] = -1
    groups[:7] = 3  # too small a group
    generator = torch.Generator().manual_seed(5)
    found = split_contrast(torch.from_numpy(features).float(), torch.from_numpy(groups), generator, min_count=50)

    kept = groups >= 0
    halves = torch.randint(0, 2, (int(kept.sum()),), generator=torch.Generator().manual_seed(5)).numpy()
    sums = {
        (g, h): unit(features[kept][(groups[kept] == g) & (halves == h)].sum(axis=0)) for g in (0, 1, 2) for h in (0, 1)
    }
    logits = np.array([[sums[a, 0] @ sums[b, 1] / 0.2 for b in (0, 1, 2)] for a in (0, 1, 2)])
    expected = np.mean([cross_entropy(logits[i], i) + cross_entropy(logits[:, i], i) for i in range(3)]) / 2
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_split_contrast_prefers_groups_that_hang_together() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(4).repeat_interleave(200)
    apart = torch.eye(4)[groups] + 0.1 * torch.randn(800, 4)
    mixed = torch.randn(800, 4)
    assert split_contrast(apart, groups, generator) < split_contrast(mixed, groups, generator)


@pytest.mark.parametrize("groups", [torch.full((300,), -1), torch.zeros(300).long(), torch.arange(300)])
def test_split_contrast_with_nothing_to_contrast_is_zero_and_differentiable(groups: torch.Tensor) -> None:
    features = torch.randn(300, 4, requires_grad=True)
    loss = split_contrast(features, groups, torch.Generator().manual_seed(0))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert (features.grad == 0).all()


def test_bank_contrast() -> None:
    rng = np.random.default_rng(2)
    features, bank = unit(rng.normal(size=(50, 7))), unit(rng.normal(size=(9, 7)))
    groups, weights = rng.integers(-1, 9, 50), rng.random(50)
    total = sum(
        w * cross_entropy(bank @ f / 0.07, g) for f, g, w in zip(features, groups, weights, strict=True) if g >= 0
    )
    found = bank_contrast(
        *(torch.from_numpy(a).float() for a in (features, bank)),
        torch.from_numpy(groups),
        torch.from_numpy(weights).float(),
    )
    assert float(found) == pytest.approx(total / weights[groups >= 0].sum(), rel=1e-4)


def test_bank_contrast_without_labels_is_zero() -> None:
    features = torch.randn(5, 4, requires_grad=True)
    loss = bank_contrast(features, torch.randn(3, 4), torch.full((5,), -1), torch.ones(5))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert (features.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_scored_in_float32(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(200, 32, generator=rng), dim=1)
    bank = torch.nn.functional.normalize(torch.randn(9, 32, generator=rng), dim=1)
    groups, weights = torch.arange(200) % 9, torch.ones(200)
    for loss in (
        lambda f: feature_loss(f, bank[groups], weights),
        lambda f: bank_contrast(f, bank, groups, weights),
        lambda f: split_contrast(f, groups, torch.Generator().manual_seed(0), min_count=5),
    ):
        low, full = loss(features.to(dtype)), loss(features)
        assert low.dtype == torch.float32
        assert float(low) == pytest.approx(float(full), rel=0.03)
