"""A head that reads stages where they are, against the projector on upcast features."""

from __future__ import annotations

import pytest
import torch

from chorus_core.encoder.factored_head import CentredPyramid, FactoredHead, hidden_layer
from chorus_core.encoder.model import Projector
from chorus_core.encoder.pyramid import Pyramid


def make_pyramid(widths: tuple[int, ...], count: int = 300, dtype: torch.dtype = torch.float64) -> Pyramid:
    """Stages of random features, each with a random number of finer voxels a cell; means and spreads differ."""
    rng = torch.Generator().manual_seed(len(widths))
    features, cells = [], []
    for stage, width in enumerate(widths):
        x = torch.randn(count, width, generator=rng, dtype=dtype)
        features.append(x * 3.0**stage + 5.0 * stage)
        if stage < len(widths) - 1:
            begins = torch.rand(count, generator=rng) < 0.3
            begins[0] = True
            cells.append(begins.cumsum(0) - 1)
            count = int(cells[-1][-1]) + 1
    return Pyramid(features, cells)


def make_projector(in_dim: int) -> Projector:
    torch.manual_seed(in_dim)
    projector = Projector(in_dim, 10, 3, normalize=False).double()
    with torch.no_grad():
        projector.input_norm.weight.uniform_(0.5, 2.0)
        projector.input_norm.bias.normal_()
    return projector


@pytest.mark.parametrize("widths", [(6,), (4, 8), (5, 7, 9, 30)])
@torch.no_grad()
def test_it_is_the_projector(widths: tuple[int, ...]) -> None:
    pyramid, projector = make_pyramid(widths), make_projector(sum(widths))
    expected = projector(pyramid.upcast())
    head = FactoredHead(projector, widths, torch.float64)
    centred = CentredPyramid(pyramid, torch.float64, head.epsilon)
    wanted = torch.arange(0, len(pyramid), 2)
    found = torch.cat([head(centred.part(rows, head.inner)) for rows in pyramid.cut(wanted, 37)])
    torch.testing.assert_close(found, expected[wanted], rtol=1e-9, atol=1e-9)


def test_half_precision_survives_features_far_from_zero() -> None:
    """A norm takes a common offset off; what is rounded before it must not hold it."""
    pyramid = make_pyramid((16, 32, 64), dtype=torch.float32)
    shifted = Pyramid([f + 200.0 for f in pyramid.features], pyramid.cells)
    projector = make_projector(112).float()
    rows = pyramid.cut(torch.arange(len(pyramid)), 1000)[0]
    head = FactoredHead(projector, (16, 32, 64), torch.bfloat16)
    found = head(CentredPyramid(shifted, torch.bfloat16, head.epsilon).part(rows, head.inner))
    cosine = torch.nn.functional.cosine_similarity(found.float(), projector(shifted.upcast()), dim=1)
    assert cosine.min() > 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("coarse", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (1000, 4928), (129, 200)])
def test_the_kernel_agrees_with_its_twin(rows: int, width: int, coarse: bool) -> None:
    torch.manual_seed(0)
    own, weight = torch.randn(rows, 64), torch.randn(width, 64) / 8
    below, cell = (torch.randn(50, width), torch.randint(0, 50, (rows,))) if coarse else (None, None)
    gain, bias = torch.rand(rows), torch.randn(width)
    own, weight, below = (None if t is None else t.bfloat16() for t in (own, weight, below))
    given = (own, weight, below, cell, gain, bias)
    expected = hidden_layer(*(t.double() if t is not None and t.is_floating_point() else t for t in given))
    with torch.no_grad():
        found = hidden_layer(*(None if t is None else t.cuda() for t in given)).cpu()
    torch.testing.assert_close(found.double(), expected, rtol=1e-2, atol=1e-2)
