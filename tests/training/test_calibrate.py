from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bank import DIM, NAMES

from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.gaussians import Gaussians
from chorus_core.semantics.calibration import Calibration, CalibrationError
from chorus_core.semantics.relevancy import FeatureBasis
from training.calibrate import (
    Evidence,
    basis_samples,
    calibrate,
    draw_queries,
    fit,
    operating_point,
    retained_accuracy,
    score_queries,
    threshold_of,
)
from training.evaluation.encoded import EncodedScene, encode_scenes
from training.language import LanguageTargets
from training.scenes.instance import Instance
from training.scenes.scene_file import save_scene


def scene(bank: LanguageTargets, seed: int, noise: float = 0.05, each: int = 60) -> EncodedScene:
    """Blobs of three categories whose features are their names, blurred."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(NAMES), 3, replace=False)
    category = np.repeat(chosen, each)
    points = rng.uniform(0, 0.3, (len(category), 3)) + 5.0 * category[:, None]
    features = (
        bank.name_embeddings()[category] + noise * torch.from_numpy(rng.normal(size=(len(category), DIM))).float()
    )
    features = torch.nn.functional.normalize(features, dim=-1).half()
    return EncodedScene(f"s{seed}", points, features, category, category, list(NAMES), 0.03)


def test_what_is_in_the_scene_and_what_is_not(bank: LanguageTargets) -> None:
    queries = draw_queries(bank, [0, 2], np.random.default_rng(0))
    present = [q for q in queries if q.category >= 0]
    assert {q.category for q in present} == {0, 2} and {q.kind for q in present} == {"name", "synonym", "description"}
    absent = [q for q in queries if q.kind == "absent category"]
    near = torch.stack([q.embedding for q in absent]) @ bank.name_embeddings()[[0, 2]].T
    assert absent and near.max() < 0.5 and all(q.category == -1 for q in absent)
    assert sum(q.kind == "absent word" for q in queries) == 40
    assert all(torch.isfinite(q.embedding).all() for q in queries)


def test_finds_what_is_there_and_nothing_else(bank: LanguageTargets) -> None:
    scenes = [scene(bank, seed) for seed in range(4)]
    basis, report = calibrate(scenes, bank, dim=32, reject=0.9, seed=0)
    point = report["operating_point"]
    assert point["name"] == 1.0 and point["synonym"] > 0.9
    assert point["absent word"] >= 0.9 and point["absent category"] >= 0.9
    assert 0 < report["threshold"] < 1 and basis.dim == 32
    assert report["basis"]["full"]["accuracy"] > 0.95
    assert report["basis"]["32"]["accuracy"] > report["basis"]["full"]["accuracy"] - 0.01
    assert len(report["curve"]) == 19
    again = calibrate(scenes, bank, dim=32, reject=0.9, seed=0)[1]
    assert again == report
    elsewhere = calibrate(scenes, bank, dim=32, reject=0.9, seed=0, basis_scenes=scenes[:1])[0]
    assert torch.equal(elsewhere.basis, FeatureBasis.fit(basis_samples(scenes[:1]), 32).basis)


def test_the_curve_is_monotone(bank: LanguageTargets) -> None:
    report = calibrate([scene(bank, seed, noise=0.15) for seed in range(3)], bank, dim=32, reject=0.9, seed=0)[1]
    for kind, sign in (("name", -1), ("description", -1), ("absent word", 1), ("absent category", 1)):
        assert (sign * np.diff([row[kind] for row in report["curve"]]) >= 0).all()


def test_both_kinds_of_absent_queries_are_rejected() -> None:
    scores = {
        "name": np.array([0.9]),
        "absent word": np.linspace(0, 0.3, 11),
        "absent category": np.linspace(0, 0.8, 11),
    }
    threshold = threshold_of(scores, 0.9)
    point = operating_point(scores, threshold)
    assert point["absent category"] >= 0.9 and point["absent word"] == 1.0 and point["name"] == 1.0


def test_an_untrained_model_is_refused() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(100, 3))).float()
    items = [Evidence(kind, rows - 3 * (kind == "name"), np.zeros((100, 3)), 0.1) for kind in ("name", "absent word")]
    with pytest.raises(CalibrationError, match="more similar"):
        fit(items)


def test_scores_are_of_whole_objects() -> None:
    rows = torch.zeros(40, 3)
    rows[:, 0] = torch.linspace(1.0, 0.0, 40)
    points = np.c_[np.arange(40) * 0.01, np.zeros((40, 2))]
    scattered = points * 1000
    calibration = Calibration(4.0, -2.0)
    scores = score_queries(
        [Evidence("name", rows, points, 0.05), Evidence("absent word", rows, scattered, 0.05)], calibration
    )
    assert scores["name"][0] == pytest.approx(float(calibration(rows)[14]))
    assert scores["absent word"][0] == 0.0


def test_basis_weighs_scenes_alike(bank: LanguageTargets) -> None:
    small, large = scene(bank, 0), scene(bank, 1, each=200)
    samples = basis_samples([small, large])
    first = samples[: len(small.features)]
    assert float(first.square().sum()) == pytest.approx(0.5, rel=0.1)
    assert float(samples.square().sum()) == pytest.approx(1.0, rel=0.1)


def test_a_full_basis_loses_nothing(bank: LanguageTargets) -> None:
    scenes = [scene(bank, 0)]
    report = retained_accuracy(FeatureBasis.fit(basis_samples(scenes), DIM), bank, scenes)
    assert report["length"] == pytest.approx(1.0, abs=1e-2) and report["similarity_error"] < 2e-3
    assert report["accuracy"] == pytest.approx(retained_accuracy(None, bank, scenes)["accuracy"], abs=0.02)


def test_calibration_fields_are_what_the_library_reads(bank: LanguageTargets) -> None:
    report = calibrate([scene(bank, 3)], bank, dim=32, reject=0.9, seed=0)[1]
    assert asdict(Calibration(**report["calibration"])) == report["calibration"]


def test_only_scenes_of_the_subset_are_read(bank: LanguageTargets, tmp_path: Path) -> None:
    config = ModelConfig(
        enc_channels=(8, 16), enc_depths=(1, 1), enc_num_head=(1, 2), patch_size=64, heads={"lang": DIM}, head_ratio=1
    )
    encoder = ChorusEncoder(ChorusModel(config))
    gaussians = Gaussians(
        torch.rand(200, 3), torch.tensor((1.0, 0, 0, 0)).repeat(200, 1), torch.full((200, 3), 0.01),
        torch.rand(200), torch.rand(200, 3),
    )  # fmt: skip
    instances = [Instance(c, f"made:{c}", "red", (1.0, 1.0, 1.0), False) for c in ("sofa", "harp")]
    labels = np.repeat([0, 1, -1], [100, 60, 40])
    for name in ("val_000_00001", "val_000_00000", "test_000_00000"):
        save_scene(tmp_path / name, gaussians, labels, instances, {"voxel_size": 0.03})
    first, second = encode_scenes(encoder, tmp_path, "val", bank)
    assert (first.name, second.name) == ("val_000_00000", "val_000_00001")
    assert first.features.shape == (200, DIM) and first.features.dtype == torch.float16
    assert torch.equal(first.features, second.features)
    # "harp" is not in the bank: unlabelled, like the last 40.
    assert np.array_equal(first.category, np.where(labels == 0, NAMES.index("sofa"), -1))
    assert first.present(30) == [NAMES.index("sofa")]
    with pytest.raises(FileNotFoundError, match="train_"):
        list(encode_scenes(encoder, tmp_path, "train", bank))
