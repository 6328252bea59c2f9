"""PHI-S against numpy in float64, and Hadamard matrices against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.phi_s import PhiS, hadamard_matrix


@pytest.mark.parametrize("order", [1, 2, 4, 12, 20, 64, 384, 768, 1024, 1152])
def test_hadamard_matrices_are_orthogonal_signs(order: int) -> None:
    h = hadamard_matrix(order)
    assert h.shape == (order, order)
    assert set(np.unique(h)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(h @ h.T, order * np.eye(order))


@pytest.mark.parametrize("order", [0, 3, 6, 10, 92, 250])  # 92 exists, but by a construction (Williamson's) not here
def test_orders_without_a_construction_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order {order} "):
        hadamard_matrix(order)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([4, 8, 12, 64]), st.floats(-3, 3))
def test_it_balances_channels_and_comes_back(seed: int, dim: int, decades: float) -> None:
    """Whatever the statistics: equal variance in every channel, unit mean square length, an exact inverse."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim)) * np.logspace(0, decades, dim)
    samples = rng.normal(size=(50 * dim, dim)) @ mixing.T + 5 * rng.normal(size=dim) * np.abs(mixing).max()
    x = torch.from_numpy(samples)
    fitted = PhiS.fit(x)
    rotation = fitted.rotation.double().numpy()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(dim), atol=1e-5)
    size = np.sqrt(np.trace(np.cov(samples.T)))
    out = (samples - samples.mean(0)) @ rotation.T / size  # what it should do, in float64
    np.testing.assert_allclose(out.var(0, ddof=1), 1 / dim, rtol=1e-3)
    assert np.square(out).sum(1).mean() == pytest.approx(1.0, rel=0.01)
    found = fitted.forward(x.float())
    assert found.dtype == torch.float32
    spread = np.abs(samples).max() / size  # float32 loses digits where the mean is far from zero
    np.testing.assert_allclose(found.numpy(), out, atol=2e-5 * max(1.0, spread))
    np.testing.assert_allclose(fitted.inverse(found).numpy(), samples, atol=1e-5 * np.abs(samples).max())


def test_one_factor_keeps_directions() -> None:
    """Standardised features are a rotated and scaled copy: distances keep their proportions."""
    x = torch.randn(500, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 2, 64)
    fitted = PhiS.fit(x)
    before, after = torch.pdist(x[:50]), torch.pdist(fitted.forward(x[:50]))
    assert torch.allclose(after, before * fitted.scale, rtol=1e-4)
    assert fitted.to(torch.device("cpu")).forward(x).equal(fitted.forward(x))


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (torch.zeros(1, 4), r"\(1, 4\)"),
        (torch.zeros(4), r"\(4,\)"),
        (torch.ones(9, 4), "constant"),
        (torch.randn(50, 6), "order 6 "),
    ],
)
def test_what_cannot_be_fitted(samples: torch.Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PhiS.fit(samples)
