from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import images, save_timm
from torch import Tensor

from chorus_core.teachers import CachedTeacher, FeatureTable, Teacher, load_teacher


class Counted(Teacher):
    """A real teacher that counts the images it is shown."""

    def __init__(self, teacher: Teacher) -> None:
        self.name, self.heads, self.text, self.device = teacher.name, teacher.heads, teacher.text, teacher.device
        self._teacher, self.seen = teacher, 0

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        return self._teacher.maps(images)

    def tables(self, images: Tensor) -> dict[str, list[FeatureTable]]:
        self.seen += len(images)
        return self._teacher.tables(images)


class Patches(Teacher):
    """Two heads on cells of no grid, some pixels without any."""

    name, heads = "patches", {"lang": 3, "pe": 2}

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def tables(self, images: Tensor) -> dict[str, list[FeatureTable]]:
        found: dict[str, list[FeatureTable]] = {"lang": [], "pe": []}
        for image in images:
            brightness = image.sum(dim=-1).long()
            values, cells = brightness.flatten().unique(return_inverse=True)
            cells = cells.view(brightness.shape)
            table = torch.stack([values.float(), values.float() ** 0.5, 1 / (1 + values.float())], dim=1)
            found["lang"].append(FeatureTable(table, cells.masked_fill(brightness % 3 == 0, -1)))
            found["pe"].append(FeatureTable(torch.zeros(0, 2), torch.full_like(cells, -1)))
        return found


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    pytest.importorskip("timm")
    folder = tmp_path_factory.mktemp("vit")
    save_timm(folder, "test_vit")
    return load_teacher(f"timm:{folder}?size=64")


def same(one: dict[str, list[FeatureTable]], other: dict[str, list[FeatureTable]]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a.table, b.table) and torch.equal(a.cells, b.cells)
        for head in one
        for a, b in zip(one[head], other[head], strict=True)
    )


def test_cached_is_uncached_to_half_precision(teacher: Teacher, tmp_path: Path) -> None:
    batch = images(3, 50, 90)
    plain, cached = teacher.tables(batch)["dino"], CachedTeacher(teacher, tmp_path).tables(batch)["dino"]
    for a, b in zip(plain, cached, strict=True):
        assert torch.equal(a.cells, b.cells)
        assert torch.equal(a.table.half().float(), b.table)


def test_a_filled_cache_gives_the_same_without_the_teacher(teacher: Teacher, tmp_path: Path) -> None:
    batch, counted = images(4, 50, 90), Counted(teacher)
    first = CachedTeacher(counted, tmp_path).tables(batch)
    assert counted.seen == 4
    again = CachedTeacher(counted, tmp_path).tables(batch)
    assert counted.seen == 4
    assert same(first, again)


def test_resuming_computes_only_what_is_missing(teacher: Teacher, tmp_path: Path) -> None:
    batch, counted = images(5, 50, 90), Counted(teacher)
    CachedTeacher(counted, tmp_path).tables(batch[:2])
    whole = CachedTeacher(counted, tmp_path).tables(batch)
    assert counted.seen == 5
    alone = [CachedTeacher(counted, tmp_path).tables(batch[i : i + 1]) for i in range(5)]
    assert counted.seen == 5
    assert same(whole, {"dino": [found["dino"][0] for found in alone]})


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text", "other"])
def test_a_damaged_entry_is_computed_again(teacher: Teacher, tmp_path: Path, damage: str) -> None:
    batch, counted = images(2, 50, 90), Counted(teacher)
    cached = CachedTeacher(counted, tmp_path)
    first = cached.tables(batch)
    path = cached.path(batch[0])
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "empty":
        data = bytearray()
    elif damage == "flipped":
        data[len(data) // 3] ^= 0xFF
    elif damage == "text":
        data = bytearray(b"not an archive")
    else:  # whole, but of another image
        data = cached.path(batch[1]).read_bytes()
    path.write_bytes(data)
    seen = counted.seen
    assert same(cached.tables(batch), first)
    assert counted.seen == seen + 1
    cached.tables(batch)
    assert counted.seen == seen + 1


def test_an_interrupted_write_leaves_nothing_behind(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    def killed(path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    counted = Counted(teacher)
    cached = CachedTeacher(counted, tmp_path)
    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        cached.tables(images(1))
    monkeypatch.undo()
    assert cached.size().images == 0
    cached.tables(images(1))
    assert (cached.size().images, counted.seen) == (1, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_cells_of_any_form_come_back(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 4, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    first = CachedTeacher(Patches(), folder).tables(batch)
    assert same(first, CachedTeacher(Patches(), folder).tables(batch))
    for plain, stored in zip(Patches().tables(batch)["lang"], first["lang"], strict=True):
        assert torch.equal(plain.cells, stored.cells)


def test_a_grid_is_stored_as_two_numbers(teacher: Teacher, tmp_path: Path) -> None:
    cached = CachedTeacher(teacher, tmp_path)
    cached.tables(images(1, 480, 640))
    table = 4 * 5 * teacher.heads["dino"] * 2
    assert cached.size().images == 1
    assert table < cached.size().bytes < table + 2000


def test_teachers_do_not_share_entries(teacher: Teacher, tmp_path: Path) -> None:
    CachedTeacher(teacher, tmp_path).tables(images(1))
    counted = Counted(teacher)
    counted.name = teacher.name.replace("@", "/")
    other = CachedTeacher(counted, tmp_path)
    other.tables(images(1))
    assert counted.seen == 1
    assert other.folder.parent == tmp_path
    assert other.size().images == 1


def test_it_is_a_teacher(teacher: Teacher, tmp_path: Path) -> None:
    cached = CachedTeacher(teacher, tmp_path)
    assert isinstance(cached, Teacher)
    assert (cached.name, cached.heads, cached.text) == (teacher.name, teacher.heads, teacher.text)
    assert torch.equal(cached.maps(images(1))["dino"], teacher.maps(images(1))["dino"])
    twice = CachedTeacher(cached, tmp_path / "again")
    assert same(twice.tables(images(1)), cached.tables(images(1)))
