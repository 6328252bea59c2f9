"""Segmentation losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Lovasz-softmax loss (Berman et al. 2018, equation 11), the mean over the classes that the labels have.

    A convex surrogate of 1 - IoU: errors of a class are sorted and weighted by how much each, added to those larger
    than itself, lowers the Jaccard index.

    Args:
        probabilities: of each class, float32 [N, C].
        labels: int64 in [0, C) [N].

    Returns:
        scalar; zero without labels.
    """
    present = torch.bincount(labels, minlength=probabilities.shape[1]) > 0
    if not len(labels):
        return probabilities.sum() * 0.0
    truth = (labels[:, None] == present.nonzero().squeeze(1)).to(probabilities.dtype)  # [N, P]
    errors, order = (truth - probabilities[:, present]).abs().sort(dim=0, descending=True)
    truth = truth.gather(0, order)
    remaining = truth.sum(dim=0) - truth.cumsum(dim=0)
    union = truth.sum(dim=0) + (1 - truth).cumsum(dim=0)
    jaccard = 1 - remaining / union
    weights = torch.cat((jaccard[:1], jaccard.diff(dim=0)))
    return (errors * weights).sum(dim=0).mean()


def segmentation_loss(logits: Tensor, labels: Tensor, lovasz: float) -> Tensor:
    """Cross-entropy plus ``lovasz`` times the Lovasz-softmax loss, over labelled voxels.

    Args:
        logits: [N, C].
        labels: -1 = ignore [N].
    """
    known = labels >= 0
    logits, labels = logits[known].float(), labels[known]
    if not len(labels):
        return logits.sum() * 0.0
    loss = cross_entropy(logits, labels)
    return loss + lovasz * lovasz_softmax(logits.softmax(dim=1), labels) if lovasz else loss
