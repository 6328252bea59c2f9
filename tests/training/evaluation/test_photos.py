"""Teachers judged on photographs: small made ones, on which the right figures are known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chorus_core.io.images import ImageError
from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from chorus_core.teachers.base import Teacher, TeacherError
from training import evaluate
from training.evaluation import photos
from training.evaluation.photos import (
    COCO,
    Outline,
    OutlineError,
    Photograph,
    auroc,
    draw_outlines,
    evaluate_photographs,
    read_outlines,
    read_photographs,
)

CHAIR, BED, CUP = (COCO.index(name) for name in ("chair", "bed", "cup"))
RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)


class PaintTeacher(Teacher):
    """Says of each pixel the name that its colour stands for, and nothing of colours that stand for none."""

    name, text, heads = "paint", "minilm", {"lang": 384}

    def __init__(self, names: Mapping[tuple[int, int, int], str]) -> None:
        self._colors = torch.tensor(list(names))
        self._features = encode_labels(Vocabulary(tuple(names.values())), load_text_encoder("minilm"))

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        same = (images[..., None, :] == self._colors).all(dim=-1)  # [B, H, W, K]
        return {"lang": same.float() @ self._features}


def rectangle(category: int, x1: float, y1: float, x2: float, y2: float) -> Outline:
    return Outline(category, np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)]))


def painted(*things: tuple[Outline, tuple[int, int, int]]) -> Photograph:
    """160 x 240 pixels, 20 x 30 cells, grey but for rectangles of whole cells."""
    image = np.full((160, 240, 3), GREY, dtype=np.uint8)
    for outline, color in things:
        (x1, y1), (x2, y2) = (np.rint(outline.polygon[k] * (240, 160)).astype(int) for k in (0, 2))
        image[y1:y2, x1:x2] = color
    return Photograph(image, tuple(outline for outline, _ in things))


LEFT, RIGHT = (0.0, 0.0, 0.4, 0.5), (0.6, 0.5, 1.0, 1.0)  # 12 x 10 cells each


def test_right_names_have_the_highest_figures() -> None:
    photograph = painted((rectangle(CHAIR, *LEFT), RED), (rectangle(BED, *RIGHT), GREEN))
    found = evaluate_photographs([photograph], PaintTeacher({RED: "chair", GREEN: "bed"}))
    assert list(found["classes"]) == ["chair", "bed"] and found["photographs"] == 1
    for row in found["classes"].values():
        assert row == {"auroc": 1.0, "recall": 1.0, "cells": 120, "photographs": 1}
    assert found["auroc"] == found["recall"] == 1.0
    assert found["furnishings"] == {"classes_counted": 2, "auroc": 1.0, "recall": 1.0}


def test_swapped_names_have_the_lowest() -> None:
    photograph = painted((rectangle(CHAIR, *LEFT), RED), (rectangle(BED, *RIGHT), GREEN))
    found = evaluate_photographs([photograph], PaintTeacher({RED: "bed", GREEN: "chair", GREY: "wall"}))
    assert found["recall"] == 0.0
    # A chair (it says "bed") is above every "wall" where bed is nearer to chair than wall is, and below each "chair".
    texts = encode_labels(Vocabulary(("chair", "bed", "wall")), load_text_encoder("minilm"))
    like = texts @ texts.T
    beats_wall = float(like[0, 1] > like[0, 2])
    assert found["classes"]["chair"]["auroc"] == pytest.approx(beats_wall * 360 / 480)


def test_figures_are_pooled_over_photographs() -> None:
    """A second one in which the teacher calls nothing a chair: half of the chairs tie with all that is no chair."""
    right = painted((rectangle(CHAIR, *LEFT), RED))
    missed = painted((rectangle(CHAIR, *LEFT), GREY))
    found = evaluate_photographs([right, missed], PaintTeacher({RED: "chair"}))
    assert found["classes"]["chair"] == {"auroc": 0.75, "recall": 1.0, "cells": 240, "photographs": 2}, (
        "the only class that is counted is always the nearest"
    )


def test_outdoor_photographs_and_small_classes_are_left_out() -> None:
    street = painted((rectangle(COCO.index("car"), *LEFT), RED))
    room = painted((rectangle(CHAIR, *LEFT), GREEN), (rectangle(CUP, 0.5, 0.0, 0.7, 0.45), BLUE))  # 6 x 9 cells
    found = evaluate_photographs([street, room], PaintTeacher({GREEN: "chair", BLUE: "cup", RED: "car"}))
    assert found["photographs"] == 1 and list(found["classes"]) == ["chair"]
    with pytest.raises(OutlineError, match="no photograph shows furnishings"):
        evaluate_photographs([street], PaintTeacher({RED: "car"}))
    with pytest.raises(OutlineError, match="no class covers 60 cells"):
        evaluate_photographs([painted((rectangle(CUP, 0.0, 0.0, 0.1, 0.1), BLUE))], PaintTeacher({BLUE: "cup"}))


def test_the_smaller_thing_lies_above() -> None:
    bed, cup = rectangle(BED, 0.0, 0.0, 1.0, 1.0), rectangle(CUP, 0.4, 0.4, 0.6, 0.6)  # 6 x 4 cells
    for outlines in ((bed, cup), (cup, bed)):
        there, nearest = draw_outlines(Photograph(np.zeros((160, 240, 3), np.uint8), outlines))
        assert there[BED].all() and there[CUP].sum() == 24 and not there[CHAIR].any()
        assert np.array_equal(nearest == CUP, there[CUP]) and (nearest == BED).sum() == 600 - 24


@pytest.mark.parametrize(("height", "width"), [(161, 243), (165, 247), (7, 9)])
def test_every_size_has_its_cells(height: int, width: int) -> None:
    """Those of the outline and those of the teacher are the same places."""
    outline = rectangle(CHAIR, 0.0, 0.0, 1.0, 1.0)
    image = np.full((height, width, 3), RED, np.uint8)
    there, _ = draw_outlines(Photograph(image, (outline,)))
    assert there[CHAIR].all() and there.shape[1:] == ((height + 3) // 8, (width + 3) // 8)
    texts = encode_labels(Vocabulary(COCO), load_text_encoder("minilm"))
    scores = photos._cell_scores(PaintTeacher({RED: "chair"}), image, texts)
    assert scores.shape == (*there.shape[1:], 80) and np.allclose(scores[..., CHAIR], 1.0, atol=1e-5)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_auroc_is_the_share_of_pairs(rows: list[tuple[int, bool]]) -> None:
    found = auroc(np.array([s for s, _ in rows], float), np.array([p for _, p in rows], bool))
    pairs = [(a > b) + (a == b) / 2 for a, p in rows for b, n in rows if p and not n]
    assert math.isnan(found) if not pairs else found == pytest.approx(sum(pairs) / len(pairs))


def write(folder: Path, photograph: Photograph, name: str) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(exist_ok=True)
    assert cv2.imwrite(str(folder / "images" / f"{name}.png"), photograph.image[:, :, ::-1])
    lines = [f"{o.category} " + " ".join(f"{x:.6f}" for x in o.polygon.ravel()) for o in photograph.outlines]
    if lines:
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, painted((rectangle(CHAIR, *LEFT), RED)), "b")
    write(tmp_path, painted(), "a")
    read = list(read_photographs(tmp_path / "images", tmp_path / "labels"))
    assert [len(p.outlines) for p in read] == [0, 1] and tuple(read[1].image[0, 0]) == RED
    arguments = ["photos", "--images", tmp_path / "images", "--labels", tmp_path / "labels", "--device", "cpu"]
    evaluate.main([str(a) for a in [*arguments, "--out", tmp_path / "out"]])
    report = json.loads((tmp_path / "out" / "photos.json").read_text())
    assert report["teacher"].startswith("embedded-") and report["photographs"] == 1
    assert 0 <= report["classes"]["chair"]["auroc"] <= 1 and report["classes"]["chair"]["cells"] == 120
    printed = capsys.readouterr().out
    assert "chair" in printed and "1 classes (furnishings)" in printed


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("56 0 0 1 0", "line 1: 5 numbers"),
        ("56 0 0 1 0 1", "line 1: 6 numbers"),
        ("80 0 0 1 0 1 1", "class 80"),
        ("-1 0 0 1 0 1 1", "class -1"),
        ("56.5 0 0 1 0 1 1", "line 1"),
        ("56 0 0 1 0 1 1\n\n56 0 0 640 0 640 480", "line 3: a corner outside"),
        ("56 0 0 1 0 1 nan", "a corner outside"),
        ("56 0 0 1 0 1 x", "line 1"),
    ],
)
def test_outlines_that_do_not_read(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(OutlineError, match=match):
        read_outlines(tmp_path / "a.txt")


def test_folders_that_do_not_read(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    with pytest.raises(OutlineError, match="no photographs"):
        list(read_photographs(tmp_path / "images", tmp_path / "labels"))
    write(tmp_path, painted(), "a")
    (tmp_path / "labels" / "b.txt").write_text("56 0 0 1 0 1 1")
    with pytest.raises(OutlineError, match=r"b\.txt: outlines of no photograph"):
        list(read_photographs(tmp_path / "images", tmp_path / "labels"))
    (tmp_path / "images" / "b.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(ImageError, match=r"b\.jpg: image: damaged"):
        list(read_photographs(tmp_path / "images", tmp_path / "labels"))
    (tmp_path / "labels" / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OutlineError, match=r"a\.txt"):
        list(read_photographs(tmp_path / "images", tmp_path / "labels"))


def test_a_teacher_without_language_is_refused() -> None:
    teacher = PaintTeacher({RED: "chair"})
    teacher.text = None
    with pytest.raises(TeacherError, match='no "lang" head'):
        evaluate_photographs([painted((rectangle(CHAIR, *LEFT), RED))], teacher)
