"""What a state of the map is handed out as."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.mapping.gaussian_state import COLUMNS, EVIDENCE, MEMORY, from_gaussians, share_of, to_gaussians

VOXEL = 0.04


def states(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    state = torch.rand((count, COLUMNS), generator=generator)
    state[:, EVIDENCE] = torch.randint(1, 9, (count,), generator=generator).float()
    return state


@pytest.mark.parametrize(
    ("hits", "missed", "share"),
    [
        (1, 0.0, 1.0),
        (1, 1.0, 0.5),
        (3, 1.0, 0.75),
        (1, 0.5, 2 / 3),
        (0, 5.0, 0.0),
        (1000, 1000.0, 0.5),
        (1000, 0.0, 1.0),
    ],
)
def test_share(hits: int, missed: float, share: float) -> None:
    assert share_of(torch.tensor([hits]), torch.tensor([missed])).item() == pytest.approx(share)


def test_after_any_number_of_frames_as_many_misses_as_are_remembered_halve_the_share() -> None:
    assert share_of(torch.tensor([100_000]), torch.tensor([MEMORY])).item() == pytest.approx(0.5)


@given(evidence=st.floats(0.05, 8.0))
def test_opacity_of_evidence(evidence: float) -> None:
    state = states(1)
    state[:, EVIDENCE] = evidence
    opacity = to_gaussians(state, VOXEL).opacities.item()
    assert opacity == pytest.approx(min(1.0 - math.exp(-2.0 * evidence), 0.995), abs=1e-5)


def test_what_one_frame_saw_is_nearly_opaque() -> None:
    state = states(1)
    state[:, EVIDENCE] = 1.0
    assert to_gaussians(state, VOXEL).opacities.item() > 0.85


def test_gaussians_come_back_from_the_pixels_they_give() -> None:
    """Of a voxel's size or more: a Gaussian of the map is never smaller."""
    first = to_gaussians(states(200), VOXEL)
    pixels, evidence = from_gaussians(first)
    state = torch.cat(
        (
            pixels.points,
            pixels.colors,
            pixels.normals,
            pixels.footprints[:, None],
            torch.ones(200, 1),
            evidence[:, None],
        ),
        dim=1,
    )
    second = to_gaussians(state, VOXEL)
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert torch.allclose(getattr(first, name), getattr(second, name), atol=1e-5), name
