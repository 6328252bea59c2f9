"""The command: it learns, goes on after a kill, starts from a model, and says what it cannot do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bank import DIM, NAMES, small_bank
from small_scenes import TINY, tiny_recipe, units, write_blobs

from chorus_core.encoder.checkpoint import read_model
from chorus_core.io.errors import ReadError
from chorus_core.io.scene_folder import SceneFolderError
from training import pretrain
from training.augment import AugmentConfig
from training.configs import EMBEDDED_TEACHERS, RECIPES, TeacherConfig
from training.language import LanguageTargets
from training.objectives import class_texts
from training.scene_store import SceneStore, class_names
from training.validate import validate

SEEN = NAMES[:4]
TEACHERS = (replace(EMBEDDED_TEACHERS[0], dim=DIM), TeacherConfig("obj", 16, contrast="instance", starts_at=0.5))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms of four blobs whose colour tells the class; lifted features are the class's text and noise."""
    features = {"lang": small_bank().name_embeddings()[:4], "obj": units(1, 4, 16)}
    root = tmp_path_factory.mktemp("prepared")
    return write_blobs(root, features, {"train": 4, "val": 1}, classes=SEEN, noise=0.3)


@pytest.fixture
def arguments(data: Path, tmp_path: Path, bank: LanguageTargets, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a run in this process, with a tiny recipe."""
    recipe = tiny_recipe(
        TEACHERS, replace(TINY, grid_size=0.04), steps=60, block_rate=1e-3, learning_rate=5e-3, ema=0.9,
        augment=replace(AugmentConfig(), grey=0.0),
    )  # fmt: skip
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    monkeypatch.setitem(RECIPES, "tiny_pts", replace(recipe.as_points(), name="tiny_pts"))
    bank.save(tmp_path / "bank.npz")
    return [
        "--data", str(data), "--bank", str(tmp_path / "bank.npz"), "--recipe", "tiny", "--device", "cpu",
        "--workers", "0", "--out", str(tmp_path / "run"),
    ]  # fmt: skip


def accuracy(model: Path, data: Path) -> float:
    """f-mIoU of a written model on the validation scene."""
    classes = class_names(data, ("train", "val"))
    store = SceneStore(data, "val", (), classes)
    bank = small_bank()
    names = bank.name_embeddings()[[bank.index(c) for c in classes]]
    found = read_model(model)[0]
    return validate(found, store, class_texts(names, store), found.config.in_channels == 9, "lang")["val.f_miou"]


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", ["tiny", "tiny_pts"])
def test_it_learns(recipe: str, arguments: list[str], data: Path, tmp_path: Path) -> None:
    pretrain.main([*arguments, "--recipe", recipe, "--validate-every", "20", "--seed", "3"])
    log = log_of(tmp_path / "run")
    scores = [entry["val.f_miou"] for entry in log if "val.f_miou" in entry]
    assert len(scores) == 3
    assert scores[-1] > 0.8
    assert accuracy(tmp_path / "run" / "model", data) == pytest.approx(scores[-1], abs=0.05), (
        "files hold half precision"
    )
    train = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in train] == [50, 60]
    assert {"lang.feature", "lang.contrast", "lang.text", "obj.feature", "obj.contrast"} <= set(train[-1])
    assert train[-1]["lang.feature"] < train[0]["lang.feature"]
    _, description, _ = read_model(tmp_path / "run" / "model")
    assert (description["name"], description["steps"], description["seed"]) == (recipe, 60, 3)
    assert description["input"] == ("points" if recipe.endswith("pts") else "gaussians")
    assert description["teachers"]["obj"]["starts_at"] == 0.5
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["pretrain"]["seed"] == 3


@pytest.mark.parametrize(
    ("labels", "terms"),
    [
        ("contrast", {"lang.feature", "lang.contrast", "obj.feature", "obj.contrast"}),
        ("teacher", {"lang.feature", "lang.contrast", "lang.text", "obj.feature"}),
        ("none", {"lang.feature", "obj.feature"}),
    ],
)
def test_less_of_the_labels(labels: str, terms: set[str], arguments: list[str], data: Path, tmp_path: Path) -> None:
    pretrain.main([*arguments, "--labels", labels, "--seed", "3"])
    last = log_of(tmp_path / "run")[-2]
    assert {name for name in last if name.startswith(("lang.", "obj."))} == terms
    assert accuracy(tmp_path / "run" / "model", data) > 0.5, "the lifted features alone tell the things apart"


def test_a_finished_run_is_left_alone_and_a_model_is_started_from(
    arguments: list[str], data: Path, tmp_path: Path
) -> None:
    short = [*arguments, "--steps", "4", "--heads", "lang", "--batch-scenes", "1", "--max-points", "200"]
    pretrain.main(short)
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    log = (tmp_path / "run" / "log.jsonl").read_text()
    pretrain.main(short)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "run" / "log.jsonl").read_text() == log
    state_file = tmp_path / "run" / "state.pt"
    state, whole = torch.load(state_file, weights_only=True), state_file.read_bytes()
    for change, message in (
        ({"step": "four"}, r"step = 'four': expected a whole number"),
        ({"model": {}}, r"Missing key\(s\) in state_dict"),
        ({"optimizer": {"param_groups": []}}, r"state\.pt: damaged or of another form"),
        ({"schedule": {"base_lrs": [torch.tensor(float("nan"))]}}, r"'schedule\.base_lrs\.0' has values that are not"),
    ):
        torch.save({**state, **change}, state_file)
        with pytest.raises(ReadError, match=message):
            pretrain.main(short)
    state_file.write_bytes(whole[:-100])
    with pytest.raises(ReadError, match=r"state\.pt: damaged or of another form"):
        pretrain.main(short)
    first, _, _ = read_model(tmp_path / "run" / "model")
    assert dict(first.config.heads) == {"lang": DIM}, "--heads"
    config = json.loads((tmp_path / "run" / "config.json").read_text())["pretrain"]
    assert (config["steps"], config["batch_scenes"], config["augment"]["max_points"]) == (4, 1, 200)

    slow = ["--learning-rate", "1e-9", "--block-rate", "1e-9", "--seed", "9"]
    started = [*short, "--out", str(tmp_path / "more"), "--init", str(tmp_path / "run" / "model"), *slow]
    pretrain.main(started)
    second, _, _ = read_model(tmp_path / "more" / "model")
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-3), f"--init: {name}"


def test_phrases_need_no_lifted_language(arguments: list[str], bank: LanguageTargets, tmp_path: Path) -> None:
    write_blobs(tmp_path / "labels", {}, {"train": 2, "val": 1}, classes=SEEN)
    plain = [*arguments, "--data", str(tmp_path / "labels"), "--heads", "lang", "--phrases", "--steps", "40"]
    pretrain.main(plain)
    assert log_of(tmp_path / "run")[-1]["val.f_miou"] > 0.6
    description = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert description["teachers"]["lang"]["target"] == "phrases"


def test_a_run_by_the_clock_ends_with_all_that_it_learned(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time may be up anywhere, also between a step and the next batch."""
    now = iter(float(t) for t in range(1000))
    monkeypatch.setattr("training.progress.time.monotonic", lambda: next(now))
    pretrain.main([*arguments, "--seconds", "30"])
    log = log_of(tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    _, description, _ = read_model(tmp_path / "run" / "model")
    assert 5 < state["step"] == log[-1]["step"] == description["steps"] < 30
    assert "val.f_miou" in log[-1]


def test_without_validation_scenes(arguments: list[str], tmp_path: Path) -> None:
    write_blobs(tmp_path / "train_only", {"lang": units(1, 4, DIM)}, {"train": 1}, classes=SEEN)
    pretrain.main([*arguments, "--data", str(tmp_path / "train_only"), "--heads", "lang", "--steps", "2"])
    assert all("val.f_miou" not in entry for entry in log_of(tmp_path / "run"))


def test_what_cannot_be_done_is_said(arguments: list[str], data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--heads dino: the recipe tiny has \['lang', 'obj'\]"):
        pretrain.main([*arguments, "--heads", "lang", "dino"])
    with pytest.raises(SceneFolderError, match="no_such_folder"):
        pretrain.main([*arguments, "--data", str(tmp_path / "no_such_folder")])
    without_bank = [a for k, a in enumerate(arguments) if k not in (2, 3)]
    write_blobs(tmp_path / "nameless", {"lang": units(1, 4, DIM)}, {"train": 1})
    with pytest.raises(ValueError, match="'lang' contrasts class names: the scenes declare none"):
        pretrain.main([*without_bank, "--data", str(tmp_path / "nameless"), "--heads", "lang"])
    with pytest.raises(SystemExit, match="--labels teacher: phrases are texts of the scenes' own labels"):
        pretrain.main([*arguments, "--labels", "teacher", "--phrases"])
    with pytest.raises(SystemExit, match=r"--labels teacher: the scenes of .*nameless declare no class names"):
        pretrain.main([*without_bank, "--data", str(tmp_path / "nameless"), "--heads", "lang", "--labels", "teacher"])
    foreign = ("chair", "table", "zeppelin", "sofa")
    write_blobs(tmp_path / "foreign", {"lang": units(1, 4, DIM)}, {"train": 1}, classes=foreign)
    with pytest.raises(SystemExit, match=r"lacks 'zeppelin' \(1 of 4 class names\)"):
        pretrain.main([*arguments, "--data", str(tmp_path / "foreign"), "--heads", "lang"])


def test_only_a_language_teacher_names_voxels(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    other = tuple(replace(t, starts_at=0.0) for t in RECIPES["tiny"].pretrain.teachers if t.head == "obj")
    monkeypatch.setitem(RECIPES, "tiny", RECIPES["tiny"].with_teachers(other))
    with pytest.raises(SystemExit, match=r"--labels teacher: the language teacher \('lang'\) is not among the heads"):
        pretrain.main([*arguments, "--labels", "teacher"])


def test_classes_go_by_name_or_key() -> None:
    """Generated rooms call classes by the keys of the bank's categories, data sets by their natural names."""
    arrays = dict(small_bank()._arrays)
    arrays["categories"] = np.array([f"{name}_key" for name in NAMES])
    bank = LanguageTargets(arrays)
    by_name = pretrain.embed_names(("lamp", "rug"), bank, "none", torch.device("cpu"))
    by_key = pretrain.embed_names(("lamp_key", "rug_key"), bank, "none", torch.device("cpu"))
    assert torch.equal(by_name, by_key)
    assert torch.equal(by_name, bank.name_embeddings()[[2, 5]])


def test_a_log_cut_short_by_a_kill_is_mended(tmp_path: Path) -> None:
    """What was logged after the last state is logged again; half a line is no line."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 50, "loss": 1.0}\n{"step": 100, "loss": 0.5}\n{"step": 150, "lo')
    pretrain.RunLog(tmp_path, 80).write(100, {"loss": 0.25})
    assert [(e["step"], e["loss"]) for e in log_of(tmp_path)] == [(50, 1.0), (100, 0.25)]


def test_a_kill_between_the_last_files_is_made_good(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stops while it writes its last files ends with the same model as one that does not."""
    short = [*arguments, "--steps", "4", "--save-every", "2", "--batch-scenes", "1"]
    pretrain.main([*short, "--out", str(tmp_path / "whole")])
    real, calls = pretrain.write_model, []

    def stops(*given: object) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*given)

    monkeypatch.setattr(pretrain, "write_model", stops)
    with pytest.raises(KeyboardInterrupt):
        pretrain.main(short)
    pretrain.main(short)
    models = [tmp_path / run / "model" / "model.safetensors" for run in ("whole", "run")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_killed_run_ends_at_the_same_weights(repository: Path, tmp_path: Path) -> None:
    """The real command and recipe, killed without warning after its first save and run again: the same bytes."""
    features = {"gen": units(1, 4, 64), "obj": units(2, 4, 64)}
    write_blobs(tmp_path / "data", features, {"train": 3}, each=20, noise=0.3)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}

    def start(out: str) -> subprocess.Popen:
        command = [
            sys.executable, "-m", "training.pretrain", "--data", tmp_path / "data", "--heads", "gen", "obj",
            "--device", "cpu", "--steps", "6", "--save-every", "2", "--batch-scenes", "1", "--workers", "1",
            "--seed", "5", "--out", tmp_path / out,
        ]  # fmt: skip
        return subprocess.Popen(
            [str(c) for c in command], cwd=repository, env=environment, stderr=subprocess.PIPE, text=True
        )

    straight, killed = start("straight"), start("killed")
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "state.pt").is_file():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "it was still at work"

    resumed = start("killed")
    said = resumed.communicate(timeout=100)[1]
    assert resumed.returncode == 0, said[-2000:]
    step = int(re.search(r"going on from step (\d+) of 6", said).group(1))
    assert 2 <= step < 6
    assert straight.communicate(timeout=100)[1] is not None
    assert straight.returncode == 0
    runs = [tmp_path / name for name in ("killed", "straight")]
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    states = [torch.load(run / "state.pt", weights_only=True) for run in runs]
    assert all(torch.equal(v, states[1]["model"][k]) for k, v in states[0]["model"].items())
    assert [e["step"] for e in log_of(runs[0])] == [e["step"] for e in log_of(runs[1])] == [6]
