"""A lifted teacher's labels beside the encoder's, on a plane of four things."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "teaching"))

from plane import quadrant, write_room

from chorus_core.io.folders import open_numbered_folder
from chorus_core.pipeline import Pipeline
from chorus_core.semantics.text_encoder import MiniLMEncoder
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from chorus_core.teachers.base import Teacher, TeacherError
from training.evaluate import build_pipeline
from training.evaluation.figures import draw_labels
from training.evaluation.second_opinion import ask_teacher

CLASSES = ("chair", "table", "lamp", "sofa")


class Reader(Teacher):
    """Reads the blue of the plane: a cell is named by its quadrant."""

    name, heads, text, classes = "reader", {"lang": 384}, "minilm", CLASSES

    def __init__(self) -> None:
        self._names = encode_labels(Vocabulary(CLASSES), MiniLMEncoder())

    def maps(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        quadrants = ((images[:, ::2, ::2, 2].float() - 60) / 45).round().long().clamp(0, 3)
        return {"lang": self._names[quadrants]}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, list]:
    folder = tmp_path_factory.mktemp("room")
    write_room(folder, "test_000_00000")
    sequence = open_numbered_folder(folder / "test_000_00000")
    frames = [sequence[i] for i in range(len(sequence))]
    pipeline = build_pipeline(Path("chorus_mini"), 0.06, "house")
    for frame in frames:
        pipeline.integrate(frame)
    pipeline.encode_all()
    return pipeline, frames


def test_the_teacher_is_right_and_both_choose_from_its_classes(mapped: tuple[Pipeline, list], tmp_path: Path) -> None:
    pipeline, frames = mapped
    opinion = ask_teacher(pipeline, frames, Reader(), width=160)
    points = pipeline.labelled_map().gaussians.means.numpy()
    inside = (np.abs(points[:, :2]) > 0.15).all(1) & (opinion.theirs >= 0)
    assert inside.mean() > 0.3
    assert (opinion.theirs[inside] == quadrant(points)[inside]).mean() > 0.95
    assert opinion.vocabulary.labels == pipeline.vocabulary.labels == CLASSES
    assert len(opinion.own) == len(opinion.theirs) == len(points)
    report = opinion.report()
    assert 0 <= report["agreement"] <= 1
    assert set(report["classes"]) <= set(CLASSES)

    gaussians = pipeline.labelled_map().gaussians
    draw_labels(tmp_path / "both.png", gaussians, {"own": opinion.own, "theirs": opinion.theirs}, opinion.vocabulary)
    picture = cv2.imread(str(tmp_path / "both.png"))
    assert picture.shape[1] > picture.shape[0]
    assert picture.std() > 5


def test_another_vocabulary_may_be_asked_for(mapped: tuple[Pipeline, list]) -> None:
    pipeline, frames = mapped
    words = Vocabulary(("sofa", "chair"))
    opinion = ask_teacher(pipeline, frames[:1], Reader(), words, width=160)
    assert opinion.vocabulary is words
    assert set(np.unique(opinion.theirs)) <= {-1, 0, 1}


def test_what_a_teacher_lacks_is_said(mapped: tuple[Pipeline, list]) -> None:
    pipeline, frames = mapped
    silent = Reader()
    silent.text = None
    with pytest.raises(TeacherError, match="text space"):
        ask_teacher(pipeline, frames, silent)
    nameless = Reader()
    nameless.classes = ()
    with pytest.raises(TeacherError, match="give a vocabulary"):
        ask_teacher(pipeline, frames, nameless)
