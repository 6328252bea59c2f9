"""What a teacher asks of a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_bank import DIM, NAMES, small_bank
from small_scenes import units, write_blobs

from training.configs import SCHEDULES, TeacherConfig
from training.language import LanguageTargets
from training.objectives import ClassTexts, TeacherObjective, class_balance, class_texts, fit_phi_s, named_by_teacher
from training.phi_s import PhiS
from training.scene_store import Batch, SceneStore

EACH = 150


def make_batch(instance: torch.Tensor, category: list[str], targets: dict[str, torch.Tensor] | None = None) -> Batch:
    """A batch of single voxels; the class of an instance is the place of its category among the bank's."""
    count = len(instance)
    place = torch.tensor([NAMES.index(c) for c in category] + [-1])
    targets = targets or {}
    return Batch(
        torch.zeros(count, 3), torch.zeros(count, 11), torch.tensor([count]), place[instance], instance,
        tuple(category), ("",) * len(category), targets,
        {head: torch.ones(count, dtype=torch.bool) for head in targets},
    )  # fmt: skip


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=80), st.sampled_from([0.0, 0.5, 1.0]))
def test_balance_gives_each_class_a_power_of_its_size(segment: list[int], power: float) -> None:
    labels = torch.tensor(segment)
    weights = class_balance(labels, power)
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-4)
    sizes = {c: segment.count(c) for c in set(segment)}
    unit = len(segment) / sum(n**power for n in sizes.values())
    for c, n in sizes.items():
        assert float(weights[labels == c].sum()) == pytest.approx(unit * n**power, rel=1e-4)
        assert float(weights[labels == c].std(unbiased=False)) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("contrast", ["segment", "instance"])
def test_the_right_answer_costs_least(bank: LanguageTargets, contrast: str) -> None:
    names = bank.name_embeddings()
    instance = torch.arange(3).repeat_interleave(EACH)
    right = names[instance]
    config = TeacherConfig("lang", DIM, contrast=contrast, text_weight=0.5, class_power=0.5)
    texts = ClassTexts(names, torch.tensor([True] * 4 + [False] * 4))
    objective = TeacherObjective(config, texts=texts)
    batch = make_batch(instance, list(NAMES[:3]), {"lang": right.half()})
    best = objective.loss(right, batch, rng(), 0.0)
    assert set(best) == {"feature", "contrast", "text"}
    assert float(best["feature"]) == pytest.approx(0.0, abs=1e-4)
    mixed = right[torch.randperm(len(right), generator=rng())]
    worse = objective.loss(mixed, batch, rng(), 0.0)
    assert all(best[name] < worse[name] for name in best)
    shifted = objective.loss(names[(instance + 1) % 3], batch, rng(), 0.0)
    assert best["text"] < shifted["text"]
    assert best["feature"] < shifted["feature"]


def test_feature_loss_against_numpy(bank: LanguageTargets) -> None:
    """(1 - cosine) + summed SmoothL1, a mean over voxels weighed by class size and validity."""
    instance = torch.tensor([0] * 40 + [1] * 10 + [-1] * 5)
    predicted, target = units(1, 55, DIM), units(2, 55, DIM)
    batch = make_batch(instance, ["chair", "table"], {"lang": target})
    batch.valid["lang"] = torch.arange(55) % 3 != 0
    config = TeacherConfig("lang", DIM, weight=2.5, class_power=0.5)
    found = TeacherObjective(config).loss(predicted, batch, rng(), 0.0)
    assert set(found) == {"feature"}
    p, t = predicted.double().numpy(), target.double().numpy()
    cosine = (p * t).sum(1) / np.linalg.norm(p, axis=1) / np.linalg.norm(t, axis=1)
    gap = np.abs(p - t)
    smooth = np.where(gap < 1, gap**2 / 2, gap - 0.5).sum(1)
    size = np.array([40.0] * 40 + [10.0] * 10 + [5.0] * 5)
    weights = size**-0.5 * (np.arange(55) % 3 != 0)
    expected = 2.5 * ((1 - cosine + smooth) * weights).sum() / weights.sum()
    assert float(found["feature"]) == pytest.approx(expected, rel=1e-5)


def test_what_is_not_valid_or_not_trained_says_nothing(bank: LanguageTargets) -> None:
    """No gradient where the teacher is silent, none from unlabelled voxels or classes that training never sees."""
    texts = ClassTexts(bank.name_embeddings(), torch.tensor([True, True] + [False] * 6))
    objective = TeacherObjective(TeacherConfig("lang", DIM, text_weight=0.5), texts=texts)
    instance = torch.tensor([-1] * 50 + [0] * 50 + [1] * 50)
    batch = make_batch(instance, ["lamp", "chair"], {"lang": units(1, 150, DIM)})
    batch.valid["lang"] = torch.arange(150) >= 120
    predicted = units(2, 150, DIM).requires_grad_()
    terms = objective.loss(predicted, batch, rng(), 0.0)
    sum(terms.values()).backward()
    assert (predicted.grad[:100] == 0).all(), "unlabelled, or of a class that is no candidate, and not valid"
    assert (predicted.grad[100:].abs().sum(1) > 0).all()
    batch.valid["lang"][:] = False
    batch.segment[:] = -1
    silent = objective.loss(predicted, batch, rng(), 0.0)
    assert float(sum(silent.values()).detach()) == 0.0


def test_untrained_names_are_no_negatives(bank: LanguageTargets) -> None:
    """The text term against a brute-force InfoNCE over the trained names alone."""
    trained = torch.tensor([True, False, True, True, False, False, False, False])
    objective = TeacherObjective(
        TeacherConfig("lang", DIM, text_weight=1.0), texts=ClassTexts(bank.name_embeddings(), trained)
    )
    instance = torch.arange(4).repeat_interleave(10)
    predicted = units(3, 40, DIM)
    batch = make_batch(instance, list(NAMES[:4]), {"lang": predicted})
    found = objective.loss(predicted, batch, rng(), 0.0)["text"]
    names = bank.name_embeddings().double().numpy()
    logits = predicted.double().numpy() @ names[[0, 2, 3]].T / 0.07
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    column = {0: 0, 2: 1, 3: 2}
    losses = [-np.log(chance[v, column[int(k)]]) for v, k in enumerate(instance.tolist()) if k in column]
    assert float(found) == pytest.approx(np.mean(losses), rel=1e-5)


def test_weights_of_the_terms(bank: LanguageTargets) -> None:
    texts = ClassTexts(bank.name_embeddings(), torch.ones(8, dtype=torch.bool))
    batch = make_batch(torch.arange(2).repeat_interleave(120), ["chair", "table"], {"lang": units(1, 240, DIM)})
    predicted = units(2, 240, DIM)

    def terms(**options: float) -> dict[str, float]:
        config = TeacherConfig("lang", DIM, contrast="segment", **{"text_weight": 0.5, **options})
        return {k: float(v) for k, v in TeacherObjective(config, texts=texts).loss(predicted, batch, rng(), 0).items()}

    one, two = terms(), terms(weight=3.0, contrast_weight=0.04, text_weight=1.0)
    assert two["contrast"] == pytest.approx(2 * one["contrast"], rel=1e-5)
    assert two["text"] == pytest.approx(2 * one["text"], rel=1e-5)
    assert two["feature"] == pytest.approx(3 * one["feature"], rel=1e-5)


@pytest.mark.parametrize(("schedule", "start"), SCHEDULES.items())
def test_schedules_of_the_contrast(schedule: str, start: float) -> None:
    config = TeacherConfig("obj", 8, contrast="instance", schedule=schedule)
    batch = make_batch(torch.arange(2).repeat_interleave(120), ["chair", "table"], {"obj": units(1, 240, 8)})
    objective = TeacherObjective(config)
    for progress in (0.0, 0.1999, 0.2, 0.2499, 0.25, 0.999):
        there = "contrast" in objective.loss(units(2, 240, 8), batch, rng(), progress)
        assert there == (progress >= start), (schedule, progress)


def test_a_staged_teacher_joins_when_it_should() -> None:
    objective = TeacherObjective(TeacherConfig("obj", 8, starts_at=0.5))
    assert [objective.active(p) for p in (0.0, 0.499, 0.5, 0.9)] == [False, False, True, True]


def test_standardised_targets_are_what_is_learned() -> None:
    samples = units(5, 400, 8) * torch.linspace(0.1, 3, 8) + 1
    standard = PhiS.fit(samples)
    objective = TeacherObjective(TeacherConfig("gen", 8, phi_s=True), standard)
    batch = make_batch(torch.zeros(400, dtype=torch.int64), ["chair"], {"gen": samples.half()})
    right = objective.loss(standard.forward(samples), batch, rng(), 0.0)["feature"]
    raw = objective.loss(samples, batch, rng(), 0.0)["feature"]
    assert float(right) < 1e-3 < float(raw)


def test_phrases_are_drawn_for_every_instance_anew(bank: LanguageTargets) -> None:
    objective = TeacherObjective(TeacherConfig("lang", DIM, target="phrases"), bank=bank)
    category = ["chair", "sofa", "chair"]
    instance = torch.tensor([0] * 20 + [1] * 20 + [2] * 20 + [-1] * 20)
    batch = make_batch(instance, category)
    generator = rng()
    drawn = set()
    for _ in range(12):
        target, valid = objective._target(batch, generator)
        assert torch.equal(valid, instance >= 0)
        rows = [(bank.embeddings == t).all(1).nonzero()[:, 0] for t in target[[0, 20, 40]]]
        for k, row in enumerate(rows):
            assert bank.category[row].tolist() == [NAMES.index(category[k])] * len(row), "a phrase of its own category"
            assert torch.equal(target[20 * k], target[20 * k + 19]), "one phrase an instance"
        drawn.add(tuple(int(row[0]) for row in rows))
    assert len(drawn) > 4
    assert any(a != c for a, _, c in drawn), "instances of one category draw apart"
    predicted = units(1, 80, DIM).requires_grad_()
    objective.loss(predicted, batch, rng(), 0.0)["feature"].backward()
    assert (predicted.grad[60:] == 0).all()


def test_what_a_teacher_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="'lang' learns phrases: give it a language bank"):
        TeacherObjective(TeacherConfig("lang", 8, target="phrases"))
    with pytest.raises(ValueError, match="'lang' contrasts class names"):
        TeacherObjective(TeacherConfig("lang", 8, text_weight=0.5))


def test_class_texts_mark_what_the_scenes_hold(tmp_path: Path) -> None:
    names = small_bank().name_embeddings()
    write_blobs(tmp_path, {}, {"train": 2}, classes=("chair", "table", "lamp", "vase"), each=20)
    store = SceneStore(tmp_path, "train", (), NAMES)
    texts = class_texts(names, store)
    assert [n for n, kept in zip(NAMES, texts.trained.tolist(), strict=True) if kept] == [
        "chair", "table", "lamp", "vase",
    ]  # fmt: skip
    assert torch.equal(texts.embeddings, names)


def test_without_scenes_every_class_may_be_chosen() -> None:
    names = small_bank().name_embeddings()
    assert class_texts(names, None).trained.all()


def test_the_teacher_names_voxels_by_its_features(bank: LanguageTargets) -> None:
    names = bank.name_embeddings()
    texts = ClassTexts(names, torch.tensor([False] + [True] * (len(names) - 1)))
    said = torch.tensor([3, 0, 2, 1])  # the first name is not to be chosen
    target = torch.nn.functional.normalize(names[said] + 0.01 * units(1, 4, DIM), dim=1)
    batch = make_batch(torch.tensor([0, 0, 1, -1]), list(NAMES[:2]), {"lang": target.half()})
    batch = replace(batch, valid={"lang": torch.tensor([True, True, True, False])})
    named = named_by_teacher(batch, "lang", texts)
    scores = target.half().double() @ names.double().T
    scores[:, 0] = -np.inf
    assert named.segment.tolist() == [*scores.argmax(1)[:3].tolist(), -1]
    assert named.segment[0] == 3 and named.segment[2] == 2 and named.segment[1] != 0
    assert named.instance.tolist() == [-1] * 4
    assert named.targets is batch.targets


def test_phi_s_is_fitted_to_the_stores_features(tmp_path: Path) -> None:
    features = {"gen": units(1, 4, 8), "obj": units(2, 4, 8)}
    write_blobs(tmp_path, features, {"train": 3}, noise=0.3)
    store = SceneStore(tmp_path, "train", ("gen", "obj"), ())
    teachers = (TeacherConfig("gen", 8, phi_s=True), TeacherConfig("obj", 8))
    fitted = fit_phi_s(store, teachers, seed=3)
    assert set(fitted) == {"gen"}
    rows = torch.cat([store[k].features["gen"].table for k in range(3)]).float()
    out = fitted["gen"].forward(rows)
    assert torch.allclose(out.var(dim=0), torch.full((8,), 1 / 8), rtol=0.15)
    again = fit_phi_s(store, teachers, seed=3)
    assert torch.equal(again["gen"].rotation, fitted["gen"].rotation)
    assert fit_phi_s(store, teachers[1:], seed=3) == {}
