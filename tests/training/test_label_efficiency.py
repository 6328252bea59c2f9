"""Budgets of labels as runs, a table and a curve; one small round of the whole command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_scenes import write_blobs

from training import label_efficiency
from training.label_efficiency import Labels, draw, make_parser, make_runs, markdown, summary

BUDGETS = [Labels(fraction=0.1), Labels(), Labels(points=20)]


def report(kind: str, fraction: float, points: int | None, value: float) -> dict[str, object]:
    return {
        "kind": kind, "scene_fraction": fraction, "points_per_scene": points,
        "gaussians": {"all": {"f_miou": value}},
    }  # fmt: skip


REPORTS = [
    report("linear", 0.1, None, 0.2), report("linear", 1.0, None, 0.5), report("linear", 1.0, 20, 0.3),
    report("linear", 0.1, None, 0.4), report("scratch", 1.0, None, 0.6),
]  # fmt: skip


def test_the_table_has_a_line_a_kind_and_a_column_a_budget() -> None:
    lines = markdown(summary(REPORTS), BUDGETS).splitlines()
    assert lines[0] == "| learns | 10 % | 100 % | 20 points |"
    assert lines[2] == "| linear | 0.300 ± 0.100 | 0.500 | 0.300 |"
    assert lines[3] == "| scratch | - | 0.600 | - |"


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    import cv2

    draw(summary(REPORTS), BUDGETS, tmp_path / "curve.png")
    assert cv2.imread(str(tmp_path / "curve.png")).std() > 5


def test_every_run_has_a_folder_and_asks_for_its_labels(tmp_path: Path) -> None:
    a = make_parser().parse_args(["--model", "m", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    runs = make_runs(["linear", "scratch"], BUDGETS, [0, 1], a)
    assert len({run.folder for run in runs}) == len(runs) == 12
    asked = [" ".join(map(str, run.arguments)) for run in runs[:3]]
    assert "--scene-fraction 0.1" in asked[0]
    assert "--points-per-scene" not in asked[0]
    assert "--scene-fraction 1.0" in asked[1]
    assert "--scene-fraction 1.0 --points-per-scene 20" in asked[2]


def test_one_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In processes of their own, with the shipped encoder: its features tell blobs of four colours apart."""
    rooms = write_blobs(tmp_path / "data", {}, {"train": 2, "test": 1}, classes=("box", "ball", "cup", "vase"))
    arguments = [
        "--model", "chorus_mini", "--data", str(rooms), "--out", str(tmp_path / "out"), "--kinds", "linear",
        "--fractions", "0.5", "--points", "20", "--steps", "40", "--device", "cpu",
    ]  # fmt: skip
    label_efficiency.main(arguments)
    found = json.loads((tmp_path / "out" / "label_efficiency.json").read_text())
    assert set(found["linear"]) == {"50 %", "100 %", "20 points"}
    assert found["linear"]["100 %"][0] > 0.5
    assert "| linear |" in capsys.readouterr().out
    assert (tmp_path / "out" / "label_efficiency.png").is_file()
