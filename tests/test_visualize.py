"""Pictures of a map."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from chorus_core.gaussians import Gaussians
from chorus_core.rendering import render
from chorus_core.visualize import Painter, heat_colors, overview, principal_colors, save_picture, with_legend


def slab(count: int = 4000, seed: int = 0) -> Gaussians:
    """A floor of 8 x 4 m with a block of 1 m on it, under a ceiling at 2.6 m."""
    rng = np.random.default_rng(seed)
    floor = np.c_[rng.uniform(0, 8, count), rng.uniform(0, 4, count), np.zeros(count)]
    ceiling = floor + np.array((0.0, 0.0, 2.6))
    block = rng.uniform((3, 1, 0), (4, 2, 1), (count // 4, 3))
    means = torch.tensor(np.concatenate((floor, ceiling, block)), dtype=torch.float32)
    n = len(means)
    return Gaussians(
        means, torch.tensor((1.0, 0, 0, 0)).repeat(n, 1), torch.full((n, 3), 0.05), torch.full((n,), 0.9),
        torch.full((n, 3), 0.5),
    )  # fmt: skip


def test_painter_agrees_with_the_renderer() -> None:
    gaussians = slab()
    view, shown = overview(gaussians, 160, 120)
    values = torch.rand((int(shown.sum()), 3), generator=torch.Generator().manual_seed(1))
    painted = Painter(gaussians[shown], view).paint(values)
    drawn = render(
        Gaussians(*(getattr(gaussians[shown], f) for f in ("means", "quats", "scales", "opacities")), values),
        view, background=(0.08, 0.08, 0.08),
    )  # fmt: skip
    assert np.abs(painted.astype(float) - drawn.color.numpy() * 255).max() <= 1.0


def test_overview_shows_the_floor_and_cuts_the_ceiling() -> None:
    gaussians = slab()
    view, shown = overview(gaussians, 160, 120)
    assert float(gaussians.means[shown, 2].max()) < 2.1
    camera_from_world = np.linalg.inv(view.world_from_camera)
    corners = np.array([(x, y, 0.0, 1.0) for x in (0, 8) for y in (0, 4)]) @ camera_from_world.T
    k = view.intrinsics
    u, v = k.fx * corners[:, 0] / corners[:, 2] + k.cx, k.fy * corners[:, 1] / corners[:, 2] + k.cy
    assert (corners[:, 2] > 0).all()
    assert ((u > 0) & (u < k.width) & (v > 0) & (v < k.height)).all()
    assert np.linalg.det(view.world_from_camera[:3, :3]) > 0


def test_colours_of_features_and_scores_are_in_range() -> None:
    features = torch.randn((500, 16), generator=torch.Generator().manual_seed(0)).half()
    colors = principal_colors(features)
    assert colors.shape == (500, 3)
    assert bool(((colors >= 0) & (colors <= 1)).all())
    heat = heat_colors(torch.tensor([0.2, 0.9]), torch.full((2, 3), 0.5), 0.6)
    assert heat[0].unique().numel() == 1, "below the threshold: grey"
    assert heat[1, 0] > heat[1, 2], "above: hot"


def test_picture_is_written_as_drawn(tmp_path: Path) -> None:
    picture = with_legend(np.zeros((40, 200, 3), np.uint8), [("chair", np.array([255, 0, 0], np.uint8))])
    save_picture(tmp_path / "p.png", picture)
    again = cv2.imread(str(tmp_path / "p.png"))[..., ::-1]
    assert np.array_equal(again, picture)
    assert (again[48:62, 10:24] == (255, 0, 0)).all()
