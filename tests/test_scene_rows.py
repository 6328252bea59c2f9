"""What is encoded of a scene, and what would ruin the rest."""

from __future__ import annotations

import pytest
import torch

from chorus_core.gaussians import Gaussians
from chorus_core.io.scene import PointCloud, Scene, SceneError
from chorus_core.scene_rows import choose_rows

NO_ORIGIN = torch.zeros(3).double().numpy()


def make(count: int = 400, faults: dict[str, int] | None = None, far: dict[int, float] | None = None) -> Scene:
    """A piece of floor with some Gaussians moved out along x."""
    points = torch.rand((count, 3), generator=torch.Generator().manual_seed(0)) * torch.tensor((0.3, 0.3, 0.0))
    for row, distance in (far or {}).items():
        points[row, 0] = distance
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
    content = Gaussians(points, quats, torch.full((count, 3), 0.02), torch.ones(count), torch.ones(count, 3))
    return Scene(content, NO_ORIGIN, torch.ones(count, dtype=torch.bool), faults or {})


def test_all_of_a_good_scene() -> None:
    choice = choose_rows(make(far={0: 1000.0}), 0.02, 500_000)
    assert choice.rows.all()
    assert str(choice) == ""


@pytest.mark.parametrize("distance", [1320.0, -1e4, 2e7, 1e20, 3e38])
def test_a_few_far_ones_are_left_out_always(distance: float) -> None:
    choice = choose_rows(make(far={3: distance, 9: distance}), 0.02, 500_000)
    assert (~choice.rows).nonzero().squeeze(1).tolist() == [3, 9]
    assert str(choice) == ", 2 left out (2 beyond the grid's 1308 m)"


def test_a_coarser_grid_reaches_farther() -> None:
    assert choose_rows(make(far={3: 6000.0}), 0.1, 500_000).rows.all()


def test_many_are_no_accident() -> None:
    scene = make(far=dict.fromkeys(range(40), 5000.0))
    with pytest.raises(SceneError, match=r"40 of 400 rows lie beyond the 1308 m .* --grid .* --drop-outliers"):
        choose_rows(scene, 0.02, 500_000)
    assert int(choose_rows(scene, 0.02, 500_000, drop_outliers=True).rows.sum()) == 360


def test_tiles_may_be_wider_than_the_grid() -> None:
    """A town in tiles stays whole; a Gaussian without company does not."""
    scene = make(far=dict.fromkeys(range(15), 5000.0) | {50: 9e5})
    assert (~choose_rows(scene, 0.02, max_points=200).rows).nonzero().squeeze(1).tolist() == [50]


def test_small_ones_that_float_alone_are_outliers() -> None:
    scene = make(far={7: 30.0})
    assert choose_rows(scene, 0.02, 500_000).rows.all()
    choice = choose_rows(scene, 0.02, 500_000, drop_outliers=True)
    assert (~choice.rows).nonzero().squeeze(1).tolist() == [7]
    assert choice.left_out == {"with fewer than 3 others within 2 m": 1}
    points = PointCloud(scene.content.means, scene.content.colors, None)
    assert not choose_rows(Scene(points, NO_ORIGIN, scene.kept, {}), 0.02, 500_000, drop_outliers=True).rows[7]


def test_what_the_reader_left_out_is_told_too() -> None:
    choice = choose_rows(make(faults={"a rotation of zeros": 4}), 0.02, 500_000)
    assert str(choice) == ", 4 left out (4 with a rotation of zeros)"


def test_nothing_left() -> None:
    with pytest.raises(SceneError, match="nothing to encode in 0 rows"):
        choose_rows(make(0), 0.02, 500_000)
    with pytest.raises(SceneError, match=r"nothing to encode in 3 rows, 3 left out .*2 with fewer than 3 others"):
        choose_rows(make(3), 0.02, 500_000, drop_outliers=True)
