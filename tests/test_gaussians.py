"""The structure of arrays."""

from __future__ import annotations

import pytest
import torch

from chorus_core.gaussians import Gaussians

SHAPES = {"means": (5, 3), "quats": (5, 4), "scales": (5, 3), "opacities": (5,), "colors": (5, 3)}


def make() -> Gaussians:
    rng = torch.Generator().manual_seed(0)
    return Gaussians(**{name: torch.rand(shape, generator=rng) for name, shape in SHAPES.items()})


@pytest.mark.parametrize("name", SHAPES)
def test_a_wrong_shape_is_named(name: str) -> None:
    arrays = {field: torch.rand(shape) for field, shape in SHAPES.items()}
    arrays[name] = torch.rand(5, 2)
    with pytest.raises(
        ValueError, match=rf"Gaussians.{name} has shape \(5, 2\)" if name != "means" else "Gaussians.means"
    ):
        Gaussians(**arrays)
    arrays[name] = torch.rand((4, *SHAPES[name][1:]))
    with pytest.raises(ValueError, match="has shape"):
        Gaussians(**arrays)


@pytest.mark.parametrize(
    "index",
    [torch.tensor([3, 0]), torch.tensor([True, False, False, True, False]), slice(1, 4), torch.tensor([]).long()],
)
def test_selection_takes_the_same_rows_of_every_array(index: torch.Tensor | slice) -> None:
    g, part = make(), make()[index]
    for name in SHAPES:
        assert torch.equal(getattr(part, name), getattr(g, name)[index])


def test_parts_join_to_the_whole() -> None:
    g = make()
    whole = Gaussians.cat([g[:2], Gaussians.empty(), g[2:]])
    assert len(whole) == 5
    assert all(torch.equal(getattr(whole, name), getattr(g, name)) for name in SHAPES)
    assert len(Gaussians.empty()) == 0
    assert g.to("cpu").device == torch.device("cpu")
