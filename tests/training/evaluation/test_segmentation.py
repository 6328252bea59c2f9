from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from training.datasets.base import LabelledPoints
from training.evaluation.prepared_scenes import EvaluationScene
from training.evaluation.segmentation import SegmentationScore
from training.evaluation.tables import show_segmentation
from training.evaluation.zero_shot import evaluate_zero_shot, lifted_features, predict_classes

NAMES = ("wall", "chair", "table", "other furniture")


def line(count: int) -> np.ndarray:
    return np.stack((np.arange(count) * 0.1, np.zeros(count), np.zeros(count)), axis=1)


def test_gaussians_and_points_are_scored_apart(make_scene) -> None:
    # Ten walls, then ten chairs. One chair Gaussian is wrong, and is outvoted on the points.
    truth = np.repeat([0, 1], 10)
    predicted = truth.copy()
    predicted[15] = 2
    points = LabelledPoints(line(20), truth, truth, NAMES)
    score = SegmentationScore(NAMES, {"seats": {"chair"}}, neighbours=3)
    score.add(EvaluationScene(make_scene(line(20), truth), points), predicted)
    report = score.report()
    assert report["gaussians"]["all"]["miou"] == pytest.approx((1 + 0.9) / 2)
    assert report["gaussians"]["seats"]["miou"] == report["gaussians"]["all"]["f_miou"] == pytest.approx(0.9)
    assert report["gaussians"]["classes"]["chair"] == {"iou": 0.9, "accuracy": 0.9, "points": 10}
    assert "table" not in report["gaussians"]["classes"]
    assert report["points"]["all"]["miou"] == 1.0 and set(report) == {"scenes", "vocabulary", "gaussians", "points"}


def test_gaussians_without_a_prediction_are_missed_but_do_not_vote(make_scene) -> None:
    truth, predicted = np.ones(6, np.int64), np.array([1, -1, -1, -1, -1, 1])
    points = LabelledPoints(line(6), truth, truth, NAMES)
    score = SegmentationScore(NAMES, neighbours=3)
    score.add(EvaluationScene(make_scene(line(6), truth), points), predicted)
    assert score.report()["gaussians"]["all"]["macc"] == pytest.approx(2 / 6)
    assert score.report()["points"]["all"]["macc"] == 1.0


def test_the_upstream_vote_is_off_by_default_and_printed_beside(make_scene) -> None:
    truth = np.repeat([0, 1], 10)
    predicted = np.where(np.arange(20) % 3 == 0, 2, truth)
    points = LabelledPoints(line(20), truth, truth, NAMES)
    scene = EvaluationScene(make_scene(line(20), truth), points)
    plain, leaking = SegmentationScore(NAMES, neighbours=1), SegmentationScore(NAMES, neighbours=1, upstream_vote=True)
    for score in (plain, leaking):
        score.add(scene, predicted)
    assert not [key for key in plain.report() if "upstream" in key]
    report = leaking.report()
    assert report["points"] == plain.report()["points"] and report["gaussians"] == plain.report()["gaussians"]
    assert report["points"]["all"]["miou"] < 0.7
    assert report["points_upstream_vote"]["all"]["miou"] == report["gaussians_upstream_vote"]["all"]["miou"] == 1.0
    printed = io.StringIO()
    show_segmentation(report, Console(file=printed, width=200))
    honest = f"{100 * report['points']['all']['miou']:.1f}"
    text = printed.getvalue()
    assert honest in text and "100.0" in text and "points + upstream vote" in text and "leak" in text
    printed = io.StringIO()
    show_segmentation(plain.report(), Console(file=printed, width=200))
    assert "upstream" not in printed.getvalue() and "100.0" not in printed.getvalue()


def test_tables_of_scenes_add_up(make_scene) -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(-1, 4, 40), rng.integers(-1, 4, 40)
    whole, parts = SegmentationScore(NAMES), SegmentationScore(NAMES)
    whole.add(EvaluationScene(make_scene(line(40), truth)), predicted)
    for rows in (slice(0, 13), slice(13, 40)):
        parts.add(EvaluationScene(make_scene(line(40)[rows], truth[rows])), predicted[rows])
    assert whole.report()["gaussians"] == parts.report()["gaussians"] and parts.report()["scenes"] == 2


def test_structure_is_a_choice(make_scene) -> None:
    truth, predicted = np.array([0, 1, 3, 3]), np.array([0, 1, 3, 1])
    found = {}
    for structure in (("wall",), ("wall", "other furniture")):
        score = SegmentationScore(NAMES, structure=structure)
        score.add(EvaluationScene(make_scene(line(4), truth)), predicted)
        found[structure] = score.report()["gaussians"]["all"]["f_macc"]
    assert found == {("wall",): 0.75, ("wall", "other furniture"): 1.0}


def test_the_nearest_text_is_taken() -> None:
    rng = torch.Generator().manual_seed(0)
    features, texts = torch.randn(50, 7, generator=rng), torch.randn(5, 7, generator=rng) * 3
    features[4] = 0
    a, b = features.double(), texts.double()
    cosine = a @ b.T / a.norm(dim=1, keepdim=True).clamp(min=1e-9) / b.norm(dim=1)
    expected = cosine.argmax(dim=1)
    expected[4] = -1
    assert predict_classes(features, texts).tolist() == expected.tolist()


def test_lifted_text_features_are_right(make_scene, tmp_path: Path) -> None:
    texts = torch.eye(4)
    truth = np.random.default_rng(0).integers(0, 4, 30)
    scene = EvaluationScene(make_scene(line(30), truth, features=texts[truth]))
    report = evaluate_zero_shot([scene], lifted_features(), texts, SegmentationScore(NAMES))
    assert report["gaussians"]["all"]["miou"] == 1.0 and report["scenes"] == 1
