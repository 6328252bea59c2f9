"""Training of the embedded teacher: it learns, repeats itself, and leaves a teacher that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from plane import CATEGORIES, write_room
from small_bank import DIM

from chorus_core.teachers.efficientnet_lite import BLOCKS
from chorus_core.teachers.embedded import EmbeddedConfig, build_net, load_embedded, write_embedded
from chorus_core.teachers.embedded_net import LiteNet
from training import teach
from training.language import LanguageTargets
from training.teach import TeachConfig, TeacherTrainer, validate
from training.teaching.view_store import ViewStore

SMALL = EmbeddedConfig(
    {"lang": DIM, "gen": 8, "obj": 8}, stem=8, widths=(8, 12, 16, 16), depths=(1, 1, 1, 1), pyramid=16, hidden=16,
    height=120,
)  # fmt: skip


@pytest.fixture
def trained(bank: LanguageTargets) -> torch.Tensor:
    return torch.tensor([c in CATEGORIES for c in bank.categories])


def make(bank: LanguageTargets, trained: torch.Tensor, steps: int, seed: int = 0) -> TeacherTrainer:
    torch.manual_seed(seed)
    config = TeachConfig(steps=steps, pairs=2, learning_rate=1e-2, ema=0.8, photographic=0.0, seed=seed)
    return TeacherTrainer(build_net(SMALL), config, bank, trained, torch.device("cpu"))


@pytest.fixture
def colourless(store: ViewStore) -> ViewStore:
    """The small bank has no phrases with colours."""
    for scene in store.scenes:
        scene.color_word = ("",) * 4
    return store


def write_colourless_room(folder: Path, name: str) -> None:
    """A room on disk, without the words for colours that the small bank lacks, too."""
    stem = write_room(folder, name)
    tree = json.loads(stem.with_suffix(".json").read_text())
    for thing in tree["instances"]:
        thing["color"] = ""
    stem.with_suffix(".json").write_text(json.dumps(tree))


def test_it_learns(colourless: ViewStore, bank: LanguageTargets, trained: torch.Tensor) -> None:
    trainer = make(bank, trained, 80)
    before = validate(trainer.average, colourless, bank, trained)
    figures = [trainer.train_step(colourless) for _ in range(80)]
    assert set(figures[0]) == {"lang.feature", "lang.text", "gen", "obj"}
    for name in figures[0]:
        first, last = (float(torch.stack([f[name] for f in part]).mean()) for part in (figures[:4], figures[-4:]))
        assert last < 0.9 * first, name
    after = validate(trainer.average, colourless, bank, trained)
    assert after["val.f_miou"] > max(0.4, before["val.f_miou"])
    assert after["val.classes"] == 4


def test_a_seed_repeats_a_step(colourless: ViewStore, bank: LanguageTargets, trained: torch.Tensor) -> None:
    first, same, other = (make(bank, trained, 20, seed) for seed in (1, 1, 2))
    losses = [[t.train_step(colourless) for _ in range(2)] for t in (first, same, other)]
    for mine, again in zip(losses[0], losses[1], strict=True):
        assert all(torch.equal(mine[name], again[name]) for name in mine)
    assert all(torch.equal(a, b) for a, b in zip(first.net.parameters(), same.net.parameters(), strict=True))
    assert float(losses[0][0]["lang.feature"]) != float(losses[2][0]["lang.feature"])
    for mine, theirs in zip(first.average.buffers(), first.net.buffers(), strict=True):
        assert torch.equal(mine, theirs), "running statistics are the network's"


def test_the_command_writes_a_teacher(bank: LanguageTargets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train_0", "val_0"):
        write_colourless_room(tmp_path / "rooms", name)
    bank.save(tmp_path / "bank.npz")
    (tmp_path / "trained.json").write_text(json.dumps(CATEGORIES))
    monkeypatch.setattr(teach, "EmbeddedConfig", lambda: SMALL)
    arguments = [
        "--scenes", tmp_path / "rooms", "--val-scenes", tmp_path / "rooms", "--bank", tmp_path / "bank.npz",
        "--trained-categories", tmp_path / "trained.json", "--out", tmp_path / "little", "--steps", 2, "--pairs", 1,
        "--report-every", 1, "--device", "cpu",
    ]  # fmt: skip
    teach.main([str(a) for a in arguments])
    log = json.loads((tmp_path / "little" / "log.json").read_text())
    assert [entry["step"] for entry in log] == [1, 2]
    assert all("val.f_miou" in entry and entry["rooms"] == 1 for entry in log)
    teacher = load_embedded(tmp_path / "little")
    assert teacher.name.startswith("little-")
    assert teacher.maps(torch.zeros(1, 120, 160, 3, dtype=torch.uint8))["obj"].shape == (1, 30, 40, 8)
    with pytest.raises(SystemExit, match="no training rooms with views"):
        teach.main([str(a) for a in [*arguments, "--scenes", tmp_path / "none"]])


def test_a_cpu_trains_in_contiguous_layout(colourless: ViewStore, bank: LanguageTargets, trained: torch.Tensor) -> None:
    """oneDNN 3.12 corrupts memory in channels_last on some processors."""
    trainer = make(bank, trained, 2)
    trainer.train_step(colourless)
    weights = [p for p in trainer.net.parameters() if p.ndim == 4]
    assert weights and all(p.is_contiguous() and (p.grad is None or p.grad.is_contiguous()) for p in weights)


@pytest.fixture
def lite(tmp_path: Path) -> Path:
    """A teacher folder on a random EfficientNet-Lite0, which so far says what its classifier does."""
    torch.manual_seed(0)
    config = EmbeddedConfig(
        {"lang": DIM, "gen": 8, "obj": 8}, pyramid=16, hidden=16, height=160, encoder="efficientnet_lite0",
        class_share=1.0,
    )  # fmt: skip
    net = build_net(config)
    net.class_text.normal_()
    write_embedded(tmp_path / "lite", net, {"name": "lite"})
    return tmp_path / "lite"


def tune(lite: Path, bank: LanguageTargets, trained: torch.Tensor, **options: float) -> TeacherTrainer:
    config = TeachConfig(steps=10, pairs=1, learning_rate=1e-2, **options)
    return TeacherTrainer(teach._begin(lite), config, bank, trained, torch.device("cpu"))


def changed(trainer: TeacherTrainer, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in trainer.net.state_dict().items() if not torch.equal(value, before[name])}


def test_a_pretrained_encoder_is_frozen(
    lite: Path, colourless: ViewStore, bank: LanguageTargets, trained: torch.Tensor
) -> None:
    trainer = tune(lite, bank, trained, classes=0.5)
    assert isinstance(trainer.net, LiteNet)
    assert trainer.net.config.class_share == 0.0, "rooms are learned without the classifier's share"
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    terms = trainer.train_step(colourless)
    assert set(terms) == {"lang.feature", "lang.text", "lang.classes", "gen", "obj"}
    moved = changed(trainer, before)
    assert moved and not [name for name in moved if name.startswith(("encoder", "class_text"))]
    assert any(name.startswith("heads.lang") for name in moved) and "laterals.0.weight" in moved


def test_late_blocks_are_tuned_and_kept_near(
    lite: Path, colourless: ViewStore, bank: LanguageTargets, trained: torch.Tensor
) -> None:
    first = BLOCKS - 2
    trainer = tune(lite, bank, trained, tuned_from=first, kept=2.0)
    before = {k: v.clone() for k, v in trainer.net.state_dict().items()}
    assert float(trainer.train_step(colourless)["kept"]) == 0.0, "not yet moved"
    assert float(trainer.train_step(colourless)["kept"]) > 0.0
    moved = {name for name in changed(trainer, before) if name.startswith("encoder")}
    tuned = (*(f"encoder._blocks.{k}." for k in range(first, BLOCKS)), "encoder._conv_head")
    assert moved and all(name.startswith(tuned) for name in moved)
    assert not [name for name in moved if "running" in name or "batches" in name], "statistics are those of photographs"
    rates = [group["max_lr"] for group in trainer.optimizer.param_groups]
    assert rates == pytest.approx([1e-2, 1e-3])


def test_the_command_goes_on_from_a_teacher(bank: LanguageTargets, lite: Path, tmp_path: Path) -> None:
    write_colourless_room(tmp_path / "rooms", "train_0")
    bank.save(tmp_path / "bank.npz")
    (tmp_path / "trained.json").write_text(json.dumps(CATEGORIES))
    arguments = [
        "--scenes", tmp_path / "rooms", "--bank", tmp_path / "bank.npz", "--trained-categories",
        tmp_path / "trained.json", "--out", tmp_path / "taught", "--steps", 1, "--pairs", 1, "--device", "cpu",
        "--start", lite, "--tuned-from", BLOCKS - 1, "--classes", 0.5,
    ]  # fmt: skip
    teach.main([str(a) for a in arguments])
    description = json.loads((tmp_path / "taught" / "config.json").read_text())
    assert description["training"]["tuned_from"] == BLOCKS - 1
    assert description["teacher"]["encoder"] == "efficientnet_lite0" and description["teacher"]["class_share"] == 0.0
