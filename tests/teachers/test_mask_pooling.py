from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import images, save_open_clip, vit_config
from torch import Tensor

from chorus_core.teachers import CachedTeacher, load_teacher
from chorus_core.teachers.mask_pooling import MaskPooledTeacher, mask_cells, mask_crop, pool_masks
from chorus_core.teachers.open_clip_tower import ImageTower, load_image_tower


class Fixed:
    """Proposes the masks that it was given."""

    name = "fixed"

    def __init__(self, *places: object, size: tuple[int, int] = (40, 60)) -> None:
        self.masks = torch.zeros(len(places), *size, dtype=torch.bool)
        for mask, place in zip(self.masks, places, strict=True):
            mask[place] = True

    def propose(self, image: np.ndarray) -> Tensor:
        return self.masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("open_clip")
    return save_open_clip(tmp_path_factory.mktemp("clip"), vit_config(32, 16))


@pytest.fixture(scope="module")
def tower(folder: Path) -> ImageTower:
    return load_image_tower(str(folder))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 6))
def test_pooling_is_the_formula(seed: int, count: int) -> None:
    """Mask by mask in float64 with plain loops."""
    rng = np.random.default_rng(seed)
    unit = [v / np.linalg.norm(v, axis=-1, keepdims=True) for v in rng.normal(size=(3, count, 5))]
    whole, boxes, alone = unit[0][0], unit[1], unit[2]
    locals_, shares = [], []
    for box, mask in zip(boxes, alone, strict=True):
        s = box @ mask
        local = s * mask + (1 - s) * box
        locals_.append((s, local @ whole / np.linalg.norm(local)))
    total = sum(np.exp(cosine) for _, cosine in locals_)
    for (s, cosine), box, mask in zip(locals_, boxes, alone, strict=True):
        w = np.exp(cosine) / total
        feature = w * whole + (1 - w) * (1 - s) * box + (1 - w) * s * mask
        shares.append(feature / np.linalg.norm(feature))
    found = pool_masks(*(torch.from_numpy(v) for v in (whole, boxes, alone)))
    np.testing.assert_allclose(found.numpy(), np.stack(shares), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 6), st.integers(1, 8))
def test_a_pixel_belongs_to_the_smallest_mask(seed: int, count: int, smallest: int) -> None:
    rng = np.random.default_rng(seed)
    masks = torch.zeros(count, 12, 15, dtype=torch.bool)
    for mask in masks:
        y, x = rng.integers(0, 12), rng.integers(0, 15)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
    cells, kept = mask_cells(masks, smallest)
    areas = masks.flatten(1).sum(dim=1)
    for y in range(12):
        for x in range(15):
            holders = [i for i in range(count) if masks[i, y, x]]
            if int(cells[y, x]) >= 0:
                owner = int(kept[cells[y, x]])
                assert areas[owner] == min(areas[i] for i in holders)
            else:
                least = min((int(areas[i]) for i in holders), default=0)
                assert not holders or any(i not in kept for i in holders if int(areas[i]) == least)
    counts = torch.bincount(cells[cells >= 0], minlength=len(kept))
    assert len(counts) == len(kept)
    assert bool((counts >= smallest).all())


def test_pixels_of_no_mask_have_no_feature(tower: ImageTower) -> None:
    teacher = MaskPooledTeacher(tower, Fixed(np.s_[5:20, 5:30], np.s_[25:35, 40:55]), smallest=1)
    (found,) = teacher.tables(images(1, 40, 60))["lang"]
    assert found.table.shape == (2, 12)
    assert set(found.cells.unique().tolist()) == {-1, 0, 1}
    assert int((found.cells >= 0).sum()) == 15 * 25 + 10 * 15
    assert found.cells[10, 10] != found.cells[30, 50]
    torch.testing.assert_close(found.table.norm(dim=1), torch.ones(2))


def test_tables_agree_with_maps(tower: ImageTower) -> None:
    teacher = MaskPooledTeacher(tower, Fixed(np.s_[:, :32], np.s_[8:24, 8:24]), smallest=1)
    picture = images(1, 40, 60)
    (found,) = teacher.tables(picture)["lang"]
    grid = teacher.maps(picture)["lang"][0]
    assert grid.shape == (5, 8, 12)
    assert torch.equal(grid[0, 0], found.table[found.cells[4, 4]])
    assert torch.equal(grid[2, 2], found.table[found.cells[20, 20]])
    assert torch.equal(grid[:, 5:], torch.zeros(5, 3, 12))


def test_an_image_without_masks_says_nothing(tower: ImageTower) -> None:
    teacher = MaskPooledTeacher(tower, Fixed())
    (found,) = teacher.tables(images(1, 40, 60))["lang"]
    assert found.table.shape == (0, 12)
    assert torch.equal(found.cells, torch.full((40, 60), -1))
    assert not teacher.maps(images(1, 40, 60))["lang"].any()


def test_a_crop_is_the_box_in_the_middle_of_a_square() -> None:
    x = torch.arange(3 * 10 * 12, dtype=torch.float32).view(3, 10, 12) + 1
    mask = torch.zeros(10, 12, dtype=torch.bool)
    mask[2:4, 3:9] = True
    mask[2, 4] = False
    box, alone = mask_crop(x, mask, only_mask=False), mask_crop(x, mask, only_mask=True)
    assert box.shape == (3, 6, 6)
    assert torch.equal(box[:, 2:4], x[:, 2:4, 3:9])
    assert not box[:, :2].any()
    assert not box[:, 4:].any()
    assert torch.equal(alone[:, 2:4], x[:, 2:4, 3:9] * mask[2:4, 3:9])
    assert not alone[:, 2, 1].any()


def test_only_the_changed_thing_changes_most(tower: ImageTower) -> None:
    """Painting one of two things moves its own feature more than the other's."""
    teacher = MaskPooledTeacher(tower, Fixed(np.s_[5:20, 5:25], np.s_[22:38, 35:58]), smallest=1)
    picture = images(1, 40, 60)
    painted = picture.clone()
    painted[:, 5:20, 5:25] = torch.tensor([250, 10, 10], dtype=torch.uint8)
    (before,), (after,) = teacher.tables(picture)["lang"], teacher.tables(painted)["lang"]
    moved = (before.table - after.table).norm(dim=1)
    assert moved[before.cells[10, 10]] > 2 * moved[before.cells[30, 50]]


def test_by_its_spec_with_graph_masks_and_a_cache(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(f"open_clip-masks:{folder}")
    picture = torch.full((2, 60, 80, 3), 90, dtype=torch.uint8)
    picture[1, 10:40, 10:50] = torch.tensor([200, 180, 20], dtype=torch.uint8)
    one, two = teacher.tables(picture)["lang"]
    assert (len(one.table), len(two.table)) == (1, 2)
    assert two.cells[20, 20] != two.cells[50, 70]
    assert torch.equal(one.table, teacher.tables(picture)["lang"][0].table)
    cached = CachedTeacher(teacher, tmp_path)
    for _ in range(2):
        stored = cached.tables(picture)["lang"][1]
        assert torch.equal(stored.cells, two.cells)
        torch.testing.assert_close(stored.table, two.table, atol=1e-3, rtol=1e-3)
    assert teacher.name != load_teacher(f"open_clip:{folder}").name
