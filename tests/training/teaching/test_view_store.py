"""Pairs of augmented views: what a cell is said to show is what its pixels show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plane import CATEGORIES, SIDE, pose, write_room

from training.teaching import view_store
from training.teaching.view_store import ViewStore, draw_pairs, load_views, plain_views


def shown_position(images: torch.Tensor) -> torch.Tensor:
    """Where on the plane the pixels at the cells' middles lie, by their colour [B, h, w, 2]."""
    return (images[:, 2::4, 2::4, :2].float() / 255 * 2 - 1) * SIDE


def test_views_are_read_as_they_were_written(tmp_path: Path) -> None:
    scene = load_views(write_room(tmp_path, "train_0"))
    assert scene.color.shape == (2, 120, 160, 3)
    assert scene.points.shape == (2, 30, 40, 3)
    assert scene.category == CATEGORIES
    batch = plain_views(scene)
    assert torch.allclose(batch.points[..., :2], shown_position(batch.images), atol=0.02)
    assert float(batch.points[..., 2].abs().max()) < 0.01
    quadrants = (batch.points[..., 0] > 0).long() + 2 * (batch.points[..., 1] > 0)
    away = (batch.points[..., :2].abs() > 0.02).all(-1)
    assert torch.equal(batch.instance[away], quadrants[away])


def test_cells_without_depth_have_no_place(tmp_path: Path) -> None:
    import cv2

    stem = write_room(tmp_path, "train_0")
    depth = cv2.imread(str(stem / "depth" / "1.png"), cv2.IMREAD_UNCHANGED)
    depth[:60] = 0
    cv2.imwrite(str(stem / "depth" / "1.png"), depth)
    points = load_views(stem).points
    assert torch.isfinite(points[0]).all()
    assert not torch.isfinite(points[1, :15]).any()
    assert torch.isfinite(points[1, 15:]).all()


@pytest.mark.parametrize("seed", range(6))
def test_cells_match_what_the_image_shows(store: ViewStore, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrored, zoomed, turned and shifted: colour (without the change of colours) still tells each cell's place."""
    monkeypatch.setattr(view_store, "_recolor", lambda images, rng: images.round().clamp(0, 255).to(torch.uint8))
    batch = draw_pairs(store, 4, (seed,), seed)
    assert batch.images.shape == (8, 120, 160, 3)
    assert batch.instance.shape == (8, 30, 40)
    seen = torch.isfinite(batch.points).all(-1)
    assert seen.float().mean() > 0.5
    assert torch.equal(seen, batch.instance >= 0), "beyond the image there is neither"
    gap = (batch.points[..., :2] - shown_position(batch.images)).abs().amax(-1)[seen]
    assert float(gap.max()) < 0.1, "a cell of the source covers 8 cm of the plane"
    assert float(gap.median()) < 0.04
    shown = shown_position(batch.images)
    quadrants = (shown[..., 0] > 0).long() + 2 * (shown[..., 1] > 0)
    away = seen & (shown.abs() > 0.06).all(-1)

    own = batch.instance % 4
    assert torch.equal(own[away], quadrants[away])
    assert [batch.category[int(i)] for i in batch.instance[seen].unique()] == [
        CATEGORIES[int(i) % 4] for i in batch.instance[seen].unique()
    ]


def test_views_of_a_pair_share_a_scene_and_pairs_do_not_share_things(store: ViewStore) -> None:
    batch = draw_pairs(store, 3, (1,), 1)
    groups = [set(part[part >= 0].tolist()) for part in batch.instance]
    for pair in range(3):
        assert groups[2 * pair] | groups[2 * pair + 1] <= set(range(4 * pair, 4 * pair + 4))
        assert groups[2 * pair] & groups[2 * pair + 1], "both views show some of the same things"


def test_mirrored_and_zoomed_views_occur(store: ViewStore) -> None:
    """Maps are similarities of pixels, of either hand, that enlarge and shrink."""
    mirrored, sizes = 0, []
    for seed in range(30):
        m = view_store._affine(np.random.default_rng(seed))[:, :2].astype(float)
        pixels = m * np.array([[1, 1 / 0.75], [0.75, 1]])  # in pixels of an image of 4 : 3
        size = np.sqrt(abs(np.linalg.det(pixels)))
        np.testing.assert_allclose(pixels @ pixels.T, size**2 * np.eye(2), atol=1e-6, err_msg="a similarity")
        mirrored += np.linalg.det(pixels) < 0
        sizes.append(size)
    assert 8 <= mirrored <= 22
    assert view_store.CLOSEST <= min(sizes) < 0.6 < 1.1 < max(sizes) <= 1.3


def test_a_seed_repeats_a_batch(store: ViewStore) -> None:
    first, same, other = (draw_pairs(store, 2, (seed, 3), seed) for seed in (5, 5, 6))
    assert torch.equal(first.images, same.images)
    assert torch.equal(first.instance, same.instance)
    assert torch.equal(first.points.nan_to_num(), same.points.nan_to_num())
    assert not torch.equal(first.images, other.images)


def test_new_rooms_are_taken_up(store: ViewStore) -> None:
    assert store.refresh(wait=True) == 2
    stem = write_room(store.folder, "train_000_00002", (pose(0, 0, 1.5, 0, 0), pose(0, 0, 1.6, 0, 0)))
    write_room(store.folder, "val_000_00000")
    stem.with_suffix(".json").rename(stem.with_suffix(".held"))
    assert store.refresh(wait=True) == 2, "a room is whole with its description"
    stem.with_suffix(".held").rename(stem.with_suffix(".json"))
    assert store.refresh(wait=True) == 3
    assert ViewStore(store.folder, "val", torch.device("cpu")).refresh(wait=True) == 1
