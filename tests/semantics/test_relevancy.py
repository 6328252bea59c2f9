from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.semantics.calibration import Calibration
from chorus_core.semantics.relevancy import FeatureBasis, classify, query_evidence, relevancy

normalize = torch.nn.functional.normalize


def units(rng: np.random.Generator, n: int, d: int) -> torch.Tensor:
    return normalize(torch.from_numpy(rng.normal(size=(n, d))).float(), dim=-1)


def lerf_relevancy(features: torch.Tensor, text: torch.Tensor, negatives: torch.Tensor, scale: float) -> np.ndarray:
    """The equation of the paper, word for word, in float64."""
    f, t, n = (x.double().numpy() for x in (features, text, negatives))
    query = np.exp(scale * f @ t)[:, None]
    return (query / (query + np.exp(scale * f @ n.T))).min(1)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 8), st.integers(1, 24), st.integers(1, 50))
def test_is_lerfs_equation(seed: int, n: int, m: int, d: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    features, text, negatives = units(rng, n, d), units(rng, 1, d)[0], units(rng, m, d)
    expected = lerf_relevancy(features, text, negatives, 10.0) if n else np.zeros(0)
    np.testing.assert_allclose(relevancy(features, text, negatives, chunk=chunk).numpy(), expected, atol=2e-6)


def test_half_precision_features() -> None:
    rng = np.random.default_rng(1)
    features, text, negatives = units(rng, 5000, 64), units(rng, 1, 64)[0], units(rng, 5, 64)
    scores = relevancy(features.half(), text, negatives)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), lerf_relevancy(features.half(), text, negatives, 10.0), atol=2e-6)


def test_evidence_and_calibration() -> None:
    rng = np.random.default_rng(2)
    features, text, negatives, names = units(rng, 30, 8), units(rng, 1, 8)[0], units(rng, 3, 8), units(rng, 9, 8)
    cosine, best, common = features @ text, (features @ negatives.T).amax(1), (names @ text).mean()
    evidence = query_evidence(features, text, negatives, names, chunk=7)
    torch.testing.assert_close(evidence, torch.stack([cosine, best, common.expand(30)], 1))
    torch.testing.assert_close(query_evidence(features, text)[:, 1:], torch.zeros(30, 2))
    calibration = Calibration(20.0, -3.0, contrast=0.4, commonness=0.7)
    scores = relevancy(features, text, negatives, names, calibration=calibration)
    torch.testing.assert_close(scores, torch.sigmoid(20 * (cosine - 0.4 * best - 0.7 * common) - 3))
    torch.testing.assert_close(scores, calibration(evidence))
    plain = relevancy(features, text, negatives, calibration=Calibration(20.0, -3.0, contrast=0.0))
    torch.testing.assert_close(plain, torch.sigmoid(20 * cosine - 3))


@pytest.mark.parametrize(
    ("text", "negatives", "name"),
    [((7,), (2, 8), "text"), ((1, 8), (2, 8), "text"), ((8,), (2, 7), "negatives"), ((8,), (8,), "negatives")],
)
def test_wrong_shapes_are_named(text: tuple[int, ...], negatives: tuple[int, ...], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        relevancy(torch.zeros(4, 8), torch.zeros(text), torch.zeros(negatives))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 12), st.integers(1, 70))
def test_classify_is_softmax(seed: int, n: int, n_labels: int, chunk: int) -> None:
    rng = np.random.default_rng(seed)
    features, embeddings = units(rng, n, 16), units(rng, n_labels, 16)
    labels, confidence = classify(features, embeddings, temperature=30.0, chunk=chunk)
    probabilities = torch.softmax(30.0 * features.double() @ embeddings.double().T, dim=1)
    expected = probabilities.max(1)
    assert labels.dtype == torch.int64
    torch.testing.assert_close(confidence, expected.values.float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(labels, expected.indices)


def test_classify_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="label_embeddings"):
        classify(torch.zeros(3, 8), torch.zeros(2, 9))
    with pytest.raises(ValueError, match="at least one label"):
        classify(torch.zeros(3, 8), torch.zeros(0, 8))


def test_a_basis_keeps_inner_products_with_any_text() -> None:
    rng = np.random.default_rng(3)
    span = units(rng, 12, 96)
    features = normalize(torch.from_numpy(rng.normal(size=(500, 12))).float() @ span, dim=-1)
    texts = units(rng, 20, 96)
    basis = FeatureBasis.fit(features, 12)
    torch.testing.assert_close(basis.basis.T @ basis.basis, torch.eye(12), atol=1e-5, rtol=0)
    kept = basis.project(features) @ basis.project(texts).T
    torch.testing.assert_close(kept, features @ texts.T, atol=1e-5, rtol=0)
    torch.testing.assert_close(basis.project(texts[0]), basis.project(texts)[0])
    assert basis.project(features, torch.float16).dtype == torch.float16


def test_a_basis_is_the_best_of_its_size() -> None:
    rng = np.random.default_rng(4)
    features = normalize(units(rng, 400, 20) * torch.linspace(3, 0.1, 20), dim=-1)
    kept = FeatureBasis.fit(features, 5).project(features).square().sum()
    singular = torch.linalg.svdvals(features.double())
    assert float(kept) == pytest.approx(float(singular[:5].square().sum()), rel=1e-5)


@pytest.mark.parametrize(("shape", "dim"), [((0, 8), 2), ((5, 8), 0), ((5, 8), 9), ((8,), 2)])
def test_a_basis_that_cannot_be(shape: tuple[int, ...], dim: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        FeatureBasis.fit(torch.zeros(shape), dim)


def test_a_basis_of_broken_features() -> None:
    with pytest.raises(ValueError, match="finite"):
        FeatureBasis.fit(torch.full((5, 8), torch.nan), 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_cpu() -> None:
    rng = np.random.default_rng(6)
    features, text, negatives = units(rng, 100_000, 64).half(), units(rng, 1, 64)[0], units(rng, 5, 64)
    on_gpu = relevancy(features.cuda(), text.cuda(), negatives.cuda())
    torch.testing.assert_close(on_gpu.cpu(), relevancy(features, text, negatives), atol=1e-5, rtol=0)
