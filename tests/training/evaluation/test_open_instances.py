from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.io.scene_folder import SceneFolderError
from training.datasets.base import LabelledPoints
from training.evaluation.open_instances import (
    ProposalConfig,
    evaluate_instances,
    name_proposals,
    proposal_source,
)
from training.evaluation.prepared_scenes import EvaluationScene
from training.evaluation.proposals import proposals_from_features, proposals_from_labels, read_proposals
from training.evaluation.zero_shot import lifted_features

NAMES = ("wall", "chair", "table")
TEXTS = torch.eye(3)


def blobs(*centres: float, count: int = 40) -> np.ndarray:
    """Boxes of points along x, 30 cm wide."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.uniform(0, 0.3, (count, 3)) + np.array((x, 0, 0)) for x in centres])


def same_groups(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a < 0, b < 0) and len(set(zip(a, b, strict=True))) == len(set(a)) == len(set(b))


def flood(points: np.ndarray, linked, members: np.ndarray) -> np.ndarray:
    """Components of the members under a test of pairs, one after another."""
    out, count = np.full(len(points), -1), 0
    for seed in np.flatnonzero(members):
        if out[seed] >= 0:
            continue
        out[seed], queue = count, [seed]
        while queue:
            i = queue.pop()
            for j in np.flatnonzero(members & (out < 0)):
                if linked(i, j):
                    out[j] = count
                    queue.append(j)
        count += 1
    return out


def drop_small(groups: np.ndarray, least: int) -> np.ndarray:
    sizes = {g: int((groups == g).sum()) for g in set(groups)}
    return np.array([g if g >= 0 and sizes[g] >= least else -1 for g in groups], dtype=np.int64)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 25), st.integers(1, 4))
def test_proposals_against_flooding(seed: int, n: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    points, labels = rng.uniform(0, 1, (n, 3)), rng.integers(-1, 2, n)
    features = torch.from_numpy(np.eye(3)[rng.integers(0, 3, n)] + rng.normal(0, 0.2, (n, 3)))
    features[torch.from_numpy(rng.random(n) < 0.2)] = 0
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) <= 0.3
    found = proposals_from_labels(points, labels, 0.3, least)
    expected = flood(points, lambda i, j: near[i, j] and labels[i] == labels[j], labels >= 0)
    assert same_groups(found, drop_small(expected, least))
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    alike = unit @ unit.T >= 0.8
    found = proposals_from_features(points, features, 0.3, 0.8, least)
    expected = flood(points, lambda i, j: near[i, j] and alike[i, j], np.linalg.norm(unit, axis=1) > 0)
    assert same_groups(found, drop_small(expected, least))


def test_a_proposal_is_named_by_its_mean() -> None:
    features = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0.5, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]])
    ids, classes, confidence = name_proposals(features, np.array([7, 7, 7, 7, 2, -1]), TEXTS)
    assert ids.tolist() == [2, 7] and classes.tolist() == [2, 1]
    np.testing.assert_allclose(confidence, [1.0, 2 / np.sqrt(5)], rtol=1e-6)
    empty = name_proposals(torch.zeros(2, 3), np.array([0, 1]), TEXTS)
    assert [len(part) for part in empty] == [0, 0, 0]


@pytest.mark.parametrize("kind", ["segmentation", "features", "file"])
def test_separate_things_are_found(make_scene, tmp_path: Path, kind: str) -> None:
    points = blobs(0, 1, 2, 3)
    truth, things = np.repeat([1, 1, 2, 0], 40), np.repeat(np.arange(4), 40)
    scene = make_scene(points, truth, things, NAMES, features=TEXTS[truth], voxel_size=0.1)
    np.save(tmp_path / "proposals.npy", things.astype(np.int32))
    labelled = LabelledPoints(points.astype(np.float32) + 0.001, truth, things, NAMES)
    report = evaluate_instances(
        [EvaluationScene(scene, labelled, tmp_path)], lifted_features(), TEXTS, NAMES,
        ProposalConfig(kind, min_points=10), {"seats": {"chair", "wall"}},
    )  # fmt: skip
    for where in ("gaussians", "points"):
        assert report[where]["all"] == {"map": 1.0, "map50": 1.0, "map25": 1.0, "classes": 2}
        assert set(report[where]["classes"]) == {"chair", "table"}  # wall is no instance
        assert report[where]["classes"]["chair"]["instances"] == 2 and report[where]["seats"]["classes"] == 1


def test_touching_things_of_a_class_are_one_proposal(make_scene) -> None:
    points = blobs(0, 0.3)
    truth, things = np.full(80, 1), np.repeat([0, 1], 40)
    scene = make_scene(points, truth, things, NAMES, features=TEXTS[truth], voxel_size=0.1)
    config = ProposalConfig(min_points=10)
    report = evaluate_instances([EvaluationScene(scene)], lifted_features(), TEXTS, NAMES, config)
    assert report["gaussians"]["all"]["map50"] == 0.0 and report["gaussians"]["all"]["map25"] == pytest.approx(0.5)
    assert "points" not in report


def test_bad_proposals(make_scene, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="masks"):
        proposal_source(ProposalConfig("masks"))
    with pytest.raises(SceneFolderError, match=r"proposals\.npy"):
        read_proposals(tmp_path, 3)
    np.save(tmp_path / "proposals.npy", np.zeros(4, np.int32))
    assert read_proposals(tmp_path, 4).dtype == np.int64
    with pytest.raises(SceneFolderError, match=r"expected integers \(3,\)"):
        read_proposals(tmp_path, 3)
    np.save(tmp_path / "proposals.npy", np.zeros(3))
    with pytest.raises(SceneFolderError, match="float64"):
        read_proposals(tmp_path, 3)
    in_memory = EvaluationScene(make_scene(blobs(0), np.zeros(40)))
    with pytest.raises(ValueError, match="no folder"):
        proposal_source(ProposalConfig("file"))(in_memory, torch.zeros(40, 3), TEXTS)
