"""Normals of points that come without."""

from __future__ import annotations

import pytest
import torch

from chorus_core.encoder.normals import complete_normals, estimate_normals


def test_a_plane_has_its_normal() -> None:
    rng = torch.Generator().manual_seed(0)
    normal = torch.nn.functional.normalize(torch.tensor((1.0, -2.0, 0.5)), dim=0)
    points = torch.randn(400, 3, generator=rng)
    points -= (points @ normal)[:, None] * normal
    found = estimate_normals(points + torch.tensor((5.0, 3.0, -2.0)))
    assert found.dtype == torch.float32
    assert torch.allclose((found @ normal).abs(), torch.ones(400), atol=1e-5)


def test_a_sphere_has_its_radii() -> None:
    rng = torch.Generator().manual_seed(1)
    points = torch.nn.functional.normalize(torch.randn(5000, 3, generator=rng), dim=1)
    cosine = (estimate_normals(2.0 * points) * points).sum(dim=1).abs()
    assert float(cosine.min()) > 0.95
    assert float(cosine.mean()) > 0.995


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_points_get_some_unit_vector(count: int) -> None:
    found = estimate_normals(torch.rand(count, 3, generator=torch.Generator().manual_seed(2)))
    assert found.shape == (count, 3)
    assert torch.allclose(found.norm(dim=1), torch.ones(count), atol=1e-5)


def test_points_on_a_line_get_a_direction_across() -> None:
    points = torch.linspace(0, 1, 30)[:, None] * torch.tensor((1.0, 1.0, 0.0))
    found = estimate_normals(points)
    assert torch.allclose(found @ torch.tensor((1.0, 1.0, 0.0)), torch.zeros(30), atol=1e-4)


def test_only_what_is_unknown_is_estimated() -> None:
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(3)) * torch.tensor((1.0, 1.0, 0.0))
    assert torch.equal(complete_normals(points, None), estimate_normals(points))
    given = torch.randn(200, 3, generator=torch.Generator().manual_seed(4))
    assert complete_normals(points, given) is given
    given[::7] = 0.0
    complete = complete_normals(points, given)
    known = given.any(dim=1)
    assert torch.equal(complete[known], given[known])
    assert torch.allclose(
        complete[~known].abs(), torch.tensor((0.0, 0.0, 1.0)).expand(int((~known).sum()), 3), atol=1e-5
    )
