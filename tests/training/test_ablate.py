"""The table of ablations: its rendering from figures, and its evaluation on a room written here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bank import DIM, NAMES
from small_scenes import TINY

pytest.importorskip("trimesh")

sys.path.append(str(Path(__file__).parent / "teaching"))

from dataclasses import replace

from plane import POSES, pose, quadrant, write_room

from chorus_core.encoder import ChorusModel, write_model
from chorus_core.teachers.embedded import EmbeddedConfig, build_net, write_embedded
from training import ablate
from training.ablate import DIRECT, ROWS, draw, markdown, run_name, unseen_of
from training.evaluation.few_views import few_view_rooms, lift_directly
from training.language import LanguageTargets


def entry(seed: int | None, *values: float) -> dict[str, object]:
    groups = dict(zip(("seen", "held_back", "unseen_instances"), values, strict=True))
    return ({} if seed is None else {"seed": seed}) | {group: {"f_miou": value} for group, value in groups.items()}


FOUND = {
    "5": {DIRECT: [entry(None, 0.1, 0.2, 0.3)], "language": [entry(0, 0.4, 0.1, 0.2), entry(1, 0.6, 0.1, 0.2)]},
    "100": {DIRECT: [entry(None, 0.3, 0.2, 0.3)], "language": [entry(0, 0.5, 0.1, 0.2), entry(1, 0.5, 0.3, 0.2)]},
}


def test_the_table_has_a_line_a_row_and_number_of_views() -> None:
    lines = markdown(FOUND).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 2 + 4
    assert len({len(row) for row in cells}) == 1
    assert cells[2] == ["5", DIRECT, "0.100", "0.200", "0.300", "1"]
    assert cells[3] == ["5", "language", "0.500 ± 0.100", "0.100 ± 0.000", "0.200 ± 0.000", "2"]
    assert cells[5][3] == "0.200 ± 0.100"


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    import cv2

    draw(FOUND, tmp_path / "ablation.png")
    picture = cv2.imread(str(tmp_path / "ablation.png"))
    assert picture.shape[1] > picture.shape[0] > 300
    assert picture.std() > 5


def test_runs_have_folders_of_their_own() -> None:
    names = [run_name(row, seed) for row in ROWS for seed in (0, 1, 10)]
    assert len(set(names)) == len(names)
    assert all(name.replace("+", "").replace("-", "").replace("_", "").isalnum() for name in names)


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """One test room of five frames, chairs unseen in training, one table a held-back model."""
    folder = tmp_path / "rooms"
    more = tuple(pose(0.1 * k, 0.1, 1.6, 0.0, 0.3 * k) for k in range(3))
    write_room(folder, "test_000_00000", (*POSES, *more))
    (folder / "trained_categories.json").write_text(json.dumps(["table", "lamp", "sofa"]))
    (folder / "held_back_objects.json").write_text(json.dumps(["made:table"]))
    return folder


def test_rooms_are_mapped_from_few_frames(rooms: Path, bank: LanguageTargets) -> None:
    """Labels are those of the place, the map is of the frames asked for and lies on the plane."""
    few, all_of_it = (list(few_view_rooms(rooms, "test", views, 0.05, bank)) for views in (2, 100))
    assert [len(r[0].frames) for r in (few, all_of_it)] == [2, 5]
    assert few[0].frames[1].stamp == all_of_it[0].frames[4].stamp, "spread over the whole tour"
    room = all_of_it[0]
    points = room.gaussians.means.numpy()
    assert len(few[0].gaussians) < len(points)
    assert np.abs(points[:, 2]).max() < 0.02
    inside = (np.abs(points[:, :2]) > 0.08).all(1) & (np.abs(points[:, :2]) < 1.4).all(1)
    np.testing.assert_array_equal(room.instance[inside], quadrant(points)[inside])
    expected = np.array([NAMES.index(c) for c in ("chair", "table", "lamp", "sofa")])
    labelled = room.instance >= 0
    np.testing.assert_array_equal(room.category[labelled], expected[room.instance[labelled]])
    assert (room.category[~labelled] == -1).all()
    with pytest.raises(FileNotFoundError, match="val_"):
        next(few_view_rooms(rooms, "val", 2, 0.05, bank))


def test_what_is_unseen(rooms: Path, bank: LanguageTargets) -> None:
    unseen = unseen_of(bank, rooms)
    assert unseen.objects == {"made:table"}
    assert unseen.categories == set(NAMES) - {"table", "lamp", "sofa"}


class Oracle:
    """A teacher that reads the blue of the plane: a cell is named by its quadrant."""

    def __init__(self, names: torch.Tensor) -> None:
        from chorus_core.teachers.base import FeatureTable, grid_cells

        self.heads, self._names = {"lang": DIM}, names
        self._table, self._cells = FeatureTable, grid_cells

    def tables(self, images: torch.Tensor) -> dict[str, list]:
        quadrants = ((images[0, ::4, ::4, 2].float() - 60) / 45).round().long().clamp(0, 3)
        cells = self._cells(120, 160, 30, 40)
        cells[:, :20] = -1  # says nothing of the left half
        return {"lang": [self._table(self._names[quadrants.flatten()], cells)]}


def test_direct_lifting_says_what_the_teacher_says(rooms: Path, bank: LanguageTargets) -> None:
    names = bank.name_embeddings()
    room = next(few_view_rooms(rooms, "test", 1, 0.05, bank))
    features = lift_directly(room, Oracle(names), torch.device("cpu"))
    assert torch.allclose(features.norm(dim=1), torch.ones(len(features)), atol=1e-4)
    predicted = (features @ names[:4].T).argmax(1).numpy()
    frame = room.frames[0]
    camera = np.linalg.inv(frame.world_from_camera)
    points = room.gaussians.means.numpy() @ camera[:3, :3].T + camera[:3, 3]
    u = points[:, 0] / points[:, 2] * frame.intrinsics.fx + frame.intrinsics.cx
    means = room.gaussians.means.numpy()
    away = (np.abs(means[:, :2]) > 0.15).all(1)
    told = away & (u > 84)
    assert (predicted[told] == quadrant(means)[told]).mean() > 0.98
    silent = away & (u < 70)
    assert silent.sum() > 50, "those take what their nearest neighbour was told"
    assert np.isfinite(features.numpy()).all()


def test_rows_are_evaluated_on_the_same_rooms(
    rooms: Path, bank: LanguageTargets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command but for training: models of both inputs, a teacher from a folder, table and curve."""
    bank.save(tmp_path / "bank.npz")
    torch.manual_seed(0)
    teacher = EmbeddedConfig(
        {"lang": DIM}, stem=8, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), pyramid=8, hidden=8, height=120
    )
    write_embedded(tmp_path / "teacher", build_net(teacher), {"name": "little"})
    rows = ["language", "the same, points"]
    for row, channels in zip(rows, (11, 9), strict=True):
        model = ChorusModel(replace(TINY, in_channels=channels, heads={"lang": DIM}))
        run = tmp_path / "out" / "runs" / run_name(row, 0)
        write_model(run / "model", model, {"name": row})
        (run / "done").touch()
    arguments = [
        "--data", "unused", "--rooms", rooms, "--teacher", f"embedded:{tmp_path / 'teacher'}",
        "--bank", tmp_path / "bank.npz", "--out", tmp_path / "out", "--rows", *rows, "--views", 2, 5,
        "--voxel", 0.06, "--no-training", "--device", "cpu",
    ]  # fmt: skip
    ablate.main([str(a) for a in arguments])
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert list(found) == ["2", "5"]
    for table in found.values():
        assert list(table) == [DIRECT, *rows]
        for entries in table.values():
            assert all(0 <= entries[0][group]["f_miou"] <= 1 for group in ablate.COLUMNS)
            assert entries[0]["held_back"]["classes"] == 1, "chairs"
            assert entries[0]["seen"]["classes"] == 3
    assert (tmp_path / "out" / "ablation.md").read_text() == markdown(found)
    assert (tmp_path / "out" / "ablation.png").stat().st_size > 1000
