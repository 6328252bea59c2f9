"""Zero-shot labels while training, against labels counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_bank import DIM, NAMES
from small_scenes import TINY, units, write_blobs

from chorus_core.encoder.model import ChorusModel
from training.language import LanguageTargets
from training.objectives import ClassTexts
from training.scene_store import SceneStore, whole_scene
from training.validate import validate


class Painted(ChorusModel):
    """A model that knows the colours of the blobs: it answers with a given feature each class."""

    def __init__(self, answers: torch.Tensor) -> None:
        super().__init__(TINY)
        self.answers = answers

    def forward(self, feat: torch.Tensor, levels: list) -> torch.Tensor:
        red, green, blue = (feat[:, :3] > 0).unbind(1)
        return torch.where(red & green, 3, torch.where(blue, 2, torch.where(green, 1, 0)))

    def project(self, upcast: torch.Tensor, head: str, rows: int = 0) -> torch.Tensor:
        assert head == "lang"
        return self.answers[upcast]


@pytest.fixture
def store(tmp_path: Path) -> SceneStore:
    write_blobs(tmp_path, {}, {"val": 2}, classes=("chair", "floor", "lamp", "vase"), each=50)
    return SceneStore(tmp_path, "val", (), ("chair", "floor", "lamp", "table", "vase"))


def test_right_and_wrong_answers(store: SceneStore) -> None:
    names = units(0, 5, DIM)
    texts = ClassTexts(names, torch.tensor([True, True, True, True, True]))
    perfect = validate(Painted(names[[0, 1, 2, 4]]), store, texts, False, "lang")
    assert perfect == {"val.miou": 1.0, "val.f_miou": 1.0, "val.macc": 1.0, "val.f_macc": 1.0, "val.classes": 4}
    # Vases are taken for chairs: their IoU is 0, that of chairs a half; the floor is right and no foreground.
    confused = validate(Painted(names[[0, 1, 2, 0]]), store, texts, False, "lang")
    assert confused["val.miou"] == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert confused["val.f_miou"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert confused["val.macc"] == pytest.approx(3 / 4)


def test_only_trained_classes_are_asked_and_counted(store: SceneStore) -> None:
    """A class that training did not hold is neither an answer nor a question."""
    names = units(0, 5, DIM)
    texts = ClassTexts(names, torch.tensor([True, True, True, False, False]))
    found = validate(Painted(names[[0, 1, 2, 4]]), store, texts, False, "lang")
    assert found["val.classes"] == 3
    assert found["val.macc"] == 1.0
    assert found["val.miou"] == 1.0


@pytest.mark.parametrize("points", [False, True])
def test_a_real_model_of_either_input(store: SceneStore, bank: LanguageTargets, points: bool) -> None:
    """The same figures as from features of the whole scenes, counted with plain loops."""
    from dataclasses import replace

    torch.manual_seed(0)
    model = ChorusModel(replace(TINY, in_channels=9 if points else 11, heads={"lang": DIM})).eval()
    names = bank.name_embeddings()[:5]
    found = validate(model, store, ClassTexts(names, torch.ones(5, dtype=torch.bool)), points, "lang")
    hits, truth, answers = [0] * 5, [0] * 5, [0] * 5
    for k in range(2):
        batch = whole_scene(store[k], 0.02, points)
        with torch.no_grad():
            features = model.project(model(batch.feat, model.hierarchy(batch.grid, batch.offset)), "lang")
        for feature, t in zip(features, batch.segment.tolist(), strict=True):
            answer = max(range(5), key=lambda c: float(feature @ names[c]))
            truth[t] += 1
            answers[answer] += 1
            hits[t] += answer == t
    iou = [hits[c] / (truth[c] + answers[c] - hits[c]) for c in range(5) if truth[c]]
    assert found["val.miou"] == pytest.approx(sum(iou) / len(iou))
    assert NAMES[0] == "chair"
