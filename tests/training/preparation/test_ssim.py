"""SSIM against its definition in float64 numpy, window by window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.preparation.ssim import ssim


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    offsets = np.arange(11) - 5
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()
    values = []
    for v in range(a.shape[0] - 10):
        for u in range(a.shape[1] - 10):
            for c in range(a.shape[2]):
                p, q = a[v : v + 11, u : u + 11, c], b[v : v + 11, u : u + 11, c]
                mp, mq = (kernel * p).sum(), (kernel * q).sum()
                vp, vq = (kernel * (p - mp) ** 2).sum(), (kernel * (q - mq) ** 2).sum()
                pq = (kernel * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + 1e-4) * (2 * pq + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


def test_ssim_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((15, 18, 3))
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1)
    assert float(ssim(torch.from_numpy(a), torch.from_numpy(b))) == pytest.approx(slow_ssim(a, b), abs=1e-9)
    assert float(ssim(torch.from_numpy(a), torch.from_numpy(a))) == pytest.approx(1.0)


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(torch.zeros(10, 20, 3), torch.zeros(10, 20, 3))
