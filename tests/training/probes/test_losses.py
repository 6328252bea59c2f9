from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.probes.losses import lovasz_softmax, segmentation_loss


def lovasz_reference(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The Lovasz extension by its definition: errors in descending order, each by the Jaccard loss it adds."""
    losses = []
    for c in np.unique(labels):
        truth = labels == c
        errors = np.where(truth, 1 - probabilities[:, c], probabilities[:, c])
        order, taken, before, total = np.argsort(-errors, kind="stable"), np.zeros(len(labels), bool), 0.0, 0.0
        for i in order:
            taken[i] = True  # the set of points that are wrong
            jaccard_loss = 1 - (truth & ~taken).sum() / (truth | taken).sum()
            total += errors[i] * (jaccard_loss - before)
            before = jaccard_loss
        losses.append(total)
    return float(np.mean(losses))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 4))
def test_lovasz_by_its_definition(seed: int, n: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(classes), n), rng.integers(0, classes, n)
    found = lovasz_softmax(torch.from_numpy(probabilities), torch.from_numpy(labels))
    np.testing.assert_allclose(float(found), lovasz_reference(probabilities, labels), atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_lovasz_of_hard_predictions_is_one_minus_iou(rows: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(rows).T
    iou = [((labels == c) & (predicted == c)).sum() / ((labels == c) | (predicted == c)).sum() for c in set(labels)]
    found = lovasz_softmax(torch.from_numpy(np.eye(3)[predicted]), torch.from_numpy(labels))
    assert float(found) == pytest.approx(1 - np.mean(iou))


def test_unlabelled_voxels_have_no_part() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, -1, 2, 1, -1, 0, 1, 2])
    loss = segmentation_loss(logits, labels, 1.0)
    loss.backward()
    assert bool((logits.grad[labels < 0] == 0).all()) and bool((logits.grad[labels >= 0].abs().sum(dim=1) > 0).all())
    plain = torch.nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    assert float(segmentation_loss(logits, labels, 0.0).detach()) == pytest.approx(float(plain.detach()))
    nothing = segmentation_loss(logits, torch.full((8,), -1), 1.0)
    assert float(nothing.detach()) == 0.0 and nothing.requires_grad
