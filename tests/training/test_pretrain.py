"""A real run on two small scenes: it learns, it goes on after a stop, and it starts from a model."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bank import DIM, NAMES

pytest.importorskip("embreex")
pytest.importorskip("trimesh")

from chorus_core.encoder.checkpoint import read_model
from chorus_core.encoder.model import ModelConfig
from chorus_core.gaussians import Gaussians
from training import pretrain
from training.language import COLORS, LanguageTargets
from training.scene_store import SceneStore
from training.scenes.render import Instance
from training.scenes.scene_file import save_scene
from training.targets import LanguageTarget
from training.validate import validate

TINY = ModelConfig(
    enc_channels=(16, 32), enc_depths=(1, 1), enc_num_head=(1, 2), patch_size=64, heads={"lang": DIM}, head_ratio=1
)
SEEN = NAMES[:4]


def write_scene(path: Path, seed: int) -> None:
    """Four blobs, each of a category that its colour tells."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(SEEN)), 150)
    means = rng.uniform(0, 0.4, (600, 3)) + np.array([1.0, 0.0, 0.0]) * labels[:, None]
    colors = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])[labels]
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(600, 1)
    gaussians = Gaussians(
        torch.from_numpy(means).float(), quats, torch.full((600, 3), 0.02), torch.full((600,), 0.9),
        torch.from_numpy(colors).float(),
    )  # fmt: skip
    instances = [Instance(c, f"made:{c}", "", (0.4, 0.4, 0.4), False) for c in SEEN]
    save_scene(path, gaussians, labels, instances, {"voxel_size": 0.04})


@pytest.fixture
def arguments(tmp_path: Path, bank: LanguageTargets, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(pretrain, "MINI", TINY)
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for name, seed in (("train_000_00000", 0), ("train_000_00001", 1), ("val_000_00000", 2)):
        write_scene(scenes / name, seed)
    bank.save(tmp_path / "bank.npz")
    (tmp_path / "trained.json").write_text(json.dumps(SEEN))
    return [
        "--scenes", str(scenes), "--val-scenes", str(scenes), "--bank", str(tmp_path / "bank.npz"),
        "--trained-categories", str(tmp_path / "trained.json"), "--wait-for", "2", "--batch-scenes", "2",
        "--device", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip


def accuracy(model: Path, arguments: list[str]) -> float:
    """f-mIoU of a written model on the validation scene."""
    bank = LanguageTargets.load(arguments[5])
    store = SceneStore(arguments[1], "val", torch.device("cpu"), bank.index, list(COLORS))
    store.refresh()
    trained = torch.tensor([c in SEEN for c in bank.categories])
    return validate(read_model(model)[0].eval(), store, LanguageTarget(bank, trained))["val.f_miou"]


def test_it_learns_goes_on_and_starts_from_a_model(arguments: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    pretrain.main([*arguments, "--seconds", "8", "--total-seconds", "12", "--validate-every", "2"])
    log = json.loads((run / "log.json").read_text())
    assert log[-1]["lang.feature"] < 0.7 * log[0]["lang.feature"]
    assert log[-1]["val.f_miou"] > 0.9
    assert accuracy(run / "model", arguments) > 0.9

    pretrain.main([*arguments, "--seconds", "2", "--total-seconds", "12"])
    longer = json.loads((run / "log.json").read_text())
    assert longer[: len(log)] == log
    assert longer[-1]["step"] > log[-1]["step"]

    with pytest.raises(SystemExit, match="its schedule of 8 s is over"):
        pretrain.main([*arguments, "--seconds", "8"])

    tuned = [*arguments[:-1], str(tmp_path / "tuned"), "--init", str(run / "model"), "--learning-rate", "1e-5"]
    pretrain.main([*tuned, "--seconds", "1", "--max-points", "500"])
    assert accuracy(tmp_path / "tuned" / "model", arguments) > 0.9
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert (config["learning_rate"], config["block_rate"], config["augment"]["max_points"]) == (1e-5, 5e-6, 500)


def test_a_folder_that_is_not_there_is_named(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="no_such_folder: no such folder"):
        pretrain.main(["--scenes", "no_such_folder", *arguments[2:]])


def test_a_state_is_restored_exactly(bank: LanguageTargets, arguments: list[str]) -> None:
    """Two steps in one go and two with a stop between them end at the same weights."""
    device = torch.device("cpu")
    store = SceneStore(arguments[1], "train", device, bank.index, list(COLORS))
    store.refresh()
    targets = [LanguageTarget(bank, torch.tensor([c in SEEN for c in bank.categories]))]
    config = pretrain.PretrainConfig(batch_scenes=2)

    def trainer(seed: int) -> pretrain.Trainer:
        torch.manual_seed(seed)
        return pretrain.Trainer(pretrain.ChorusModel(TINY, 0.0), config, device)

    def step(t: pretrain.Trainer) -> None:
        torch.manual_seed(t.step)  # the order of the curves
        t.train_step(pretrain.draw_batch(store, config, t.rng), targets)

    straight = trainer(0)
    step(straight)
    resumed = trainer(1)
    resumed.restore(copy.deepcopy(straight.state()))
    step(straight)
    step(resumed)
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
