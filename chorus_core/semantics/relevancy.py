"""How well features agree with texts: relevancy of a query, labels from a vocabulary, a compact basis for both.

Convention: features [N, D] and text embeddings [T, D] are L2-normalised before an optional projection by
:class:`FeatureBasis`; their inner product is (to the projection's accuracy) the cosine similarity. Features may be
fp16 or fp32, on any device. Long inputs go through in chunks, so no float32 copy of all features is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.semantics.calibration import Calibration

LERF = Calibration(scale=10.0, offset=0.0, contrast=1.0)
"""The pairwise softmax against negatives with the inverse temperature of LERF's code."""

NEGATIVES = ("object", "things", "stuff", "texture", "room")
"""Generic texts that a query must beat: LERF's canonical phrases, with "room" for the building."""

REFERENCE = "indoor"
"""The shipped vocabulary whose labels are the ordinary names that :func:`commonness` compares a text with."""

# Rows at a time. On a CPU a chunk's float32 copy must stay in cache: 16k rows x 64 are 4 MB.
_CHUNK_CPU = 16_384
_CHUNK_GPU = 1_048_576


def query_evidence(
    features: Tensor,
    text: Tensor,
    negatives: Tensor | None = None,
    reference: Tensor | None = None,
    *,
    chunk: int | None = None,
) -> Tensor:
    """What a score of a query is made of, as :func:`~chorus_core.semantics.calibration.fit_calibration` takes it.

    Args:
        features: fp16 or fp32 [N, D].
        text: [D].
        negatives: generic texts [M, D]; none makes the second column 0.
        reference: ordinary names of things [R, D]; none makes the third column 0.
        chunk: rows at a time; None picks by device.

    Returns:
        float32 [N, 3]: similarity ``f.t``; similarity to the best negative ``max_i f.n_i``; :func:`commonness` of t.
    """
    queries = _stack(features, text, negatives)
    out = torch.zeros(len(features), 3, device=features.device)
    for rows, part in _similarities(features, queries, chunk):
        out[rows, 0] = part[:, 0]
        if part.shape[1] > 1:
            out[rows, 1] = part[:, 1:].amax(1)
    out[:, 2] = commonness(text, reference)
    return out


def commonness(text: Tensor, reference: Tensor | None) -> float:
    """Mean similarity of a text [D] to ordinary names [R, D]; 0 without any.

    A bare noun is somewhat similar to every other noun, a sentence to none: the same similarity to a feature says more
    of a sentence. Taking this off makes texts comparable under one threshold.
    """
    if reference is None or not len(reference):
        return 0.0
    return float((reference.float() @ text.to(reference.device, torch.float32)).mean())


def relevancy(
    features: Tensor,
    text: Tensor,
    negatives: Tensor | None = None,
    reference: Tensor | None = None,
    *,
    calibration: Calibration | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Relevancy of each feature to a text, in [0, 1].

    Without a calibration this is LERF's score (Kerr et al. 2023, section 3.3): the least, over negatives n_i, of
    ``exp(s f.t) / (exp(s f.t) + exp(s f.n_i))``. A logistic is monotone, so that is ``sigmoid(s (f.t - max_i f.n_i))``:
    one matrix product and a maximum. A fitted :class:`Calibration` replaces ``s``, weighs the negatives, takes the
    text's :func:`commonness` into account and adds an offset, which turns the score into a probability that can say
    "nothing here".

    Args:
        features: fp16 or fp32 [N, D].
        text: [D].
        negatives: generic texts ("object", "things", ...) [M, D]; none compares with nothing.
        reference: ordinary names of things, as the calibration was fitted with [R, D].
        calibration: as fitted with the encoder; None is LERF's.
        chunk: rows at a time; None picks by device.

    Returns:
        float32 [N].
    """
    calibration = calibration or LERF
    queries = _stack(features, text, negatives if calibration.contrast else None)
    shift = calibration.offset - calibration.scale * calibration.commonness * commonness(text, reference)
    out = torch.empty(len(features), device=features.device)
    for rows, part in _similarities(features, queries, chunk):
        margin = part[:, 0]
        if part.shape[1] > 1:
            margin = margin - calibration.contrast * part[:, 1:].amax(1)
        out[rows] = torch.sigmoid(calibration.scale * margin + shift)
    return out


def classify(
    features: Tensor, label_embeddings: Tensor, *, temperature: float = 50.0, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """The most similar label of each feature, and the softmax probability of that label.

    Args:
        features: fp16 or fp32 [N, D].
        label_embeddings: [L, D].
        temperature: inverse temperature of the softmax over labels.
        chunk: rows at a time; None picks by device and number of labels.

    Returns:
        labels: int64 [N]; confidence: float32 [N], in [1/L, 1].
    """
    _check_width("label_embeddings", label_embeddings, features)
    if not len(label_embeddings):
        raise ValueError("label_embeddings is empty: expected at least one label")
    labels = torch.empty(len(features), dtype=torch.int64, device=features.device)
    confidence = torch.empty(len(features), device=features.device)
    for rows, part in _similarities(features, label_embeddings, chunk):
        best, labels[rows] = part.max(1)
        # softmax at its maximum is 1 / sum exp(s - s_max): no [n, L] of probabilities is kept.
        confidence[rows] = part.sub_(best[:, None]).mul_(temperature).exp_().sum(1).reciprocal_()
    return labels, confidence


def _similarities(features: Tensor, queries: Tensor, chunk: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, float32 [n, Q] inner products) over chunks of features."""
    if chunk is None:
        rows_of_64 = _CHUNK_CPU if features.device.type == "cpu" else _CHUNK_GPU
        chunk = max(1024, rows_of_64 * 64 // max(64, len(queries)))
    # In float32 on every device: a product in half precision would round similarities to steps of 2e-4.
    columns = queries.to(features.device, torch.float32).T.contiguous()  # [D, Q]
    for start in range(0, len(features), chunk):
        rows = slice(start, start + chunk)
        yield rows, features[rows].float() @ columns


def _stack(features: Tensor, text: Tensor, negatives: Tensor | None) -> Tensor:
    """The text and the negatives as one float32 [1 + M, D]."""
    if text.ndim != 1 or text.shape[0] != features.shape[-1]:
        raise ValueError(f"text has shape {tuple(text.shape)}: expected ({features.shape[-1]},)")
    if negatives is None:
        return text[None].float()
    _check_width("negatives", negatives, features)
    return torch.cat([text[None].float(), negatives.to(text.device, torch.float32)])


def _check_width(name: str, matrix: Tensor, features: Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != features.shape[-1]:
        raise ValueError(f"{name} has shape {tuple(matrix.shape)}: expected (any, {features.shape[-1]})")


@dataclass(frozen=True)
class FeatureBasis:
    """An orthonormal basis that features are stored in, and texts projected to.

    It is fitted without taking a mean off: what must survive is the inner product with a text, and
    ``(B'f).(B't) = f.t`` for every text wherever f lies in the span of the basis. Projected vectors are therefore not
    normalised again.

    Attributes:
        basis: columns are orthonormal, float32 [D, d].
    """

    basis: Tensor

    @classmethod
    def fit(cls, samples: Tensor, dim: int) -> FeatureBasis:
        """The ``dim`` directions that hold most of the squared length of samples [n, D] (uncentred PCA).

        Raises:
            ValueError: ``dim`` is not in [1, D], or samples are not finite or none.
        """
        if samples.ndim != 2 or not len(samples) or not 1 <= dim <= samples.shape[1]:
            raise ValueError(f"samples {tuple(samples.shape)}, dim = {dim}: expected [n, D] and 1 <= dim <= D")
        moment = torch.zeros(samples.shape[1], samples.shape[1], dtype=torch.float64, device=samples.device)
        for start in range(0, len(samples), _CHUNK_CPU):
            part = samples[start : start + _CHUNK_CPU].double()
            moment += part.T @ part
        if not torch.isfinite(moment).all():
            raise ValueError("samples hold non-finite values: expected finite features")
        _, vectors = torch.linalg.eigh(moment)  # ascending
        return cls(vectors.flip(1)[:, :dim].float().contiguous())

    @property
    def dim(self) -> int:
        """Length of a projected vector."""
        return self.basis.shape[1]

    def project(self, vectors: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Features or texts [N, D] (or [D]) in the basis, [N, d] (or [d]), of ``dtype`` (default: as given)."""
        dtype = dtype or vectors.dtype
        basis = self.basis.to(vectors.device)
        if vectors.ndim == 1:
            return (vectors.float() @ basis).to(dtype)
        _check_width("vectors", vectors, self.basis.T)
        out = torch.empty(len(vectors), self.dim, dtype=dtype, device=vectors.device)
        for start in range(0, len(vectors), _CHUNK_CPU):
            rows = slice(start, start + _CHUNK_CPU)
            out[rows] = (vectors[rows].float() @ basis).to(dtype)
        return out

    def to(self, device: torch.device | str) -> FeatureBasis:
        return FeatureBasis(self.basis.to(device))
