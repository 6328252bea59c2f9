"""Recipes: the released architecture under its keys, and variants of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chorus_core.encoder.model import ChorusModel
from training.configs import LABELS, RECIPES, PretrainConfig, Recipe, TeacherConfig


def build(recipe: Recipe) -> ChorusModel:
    with torch.device("meta"):
        return ChorusModel(recipe.model)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_builds_with_its_teachers_heads(name: str) -> None:
    recipe = RECIPES[name]
    model = build(recipe)
    assert recipe.name == name
    assert recipe.points == name.endswith("_pts")
    assert model.backbone.embedding.stem.linear.in_features == (9 if recipe.points else 11)
    for teacher in recipe.pretrain.teachers:
        projector = model.projectors[teacher.head]
        assert projector.mlp_head[2].out_features == teacher.dim
        assert projector.normalize != teacher.raw
    assert set(model.projectors) == {t.head for t in recipe.pretrain.teachers}


def test_the_base_is_the_release(repository: Path) -> None:
    model = build(RECIPES["chorus_base"])
    assert sum(p.numel() for p in model.backbone.parameters()) == 108_461_424
    path = repository / "tests" / "data" / "parity" / "chorus_3dgs_release_keys.json"
    if not path.is_file():
        pytest.skip(f"no list of the release's keys at {path}")
    released = {key: tuple(shape) for key, shape in json.loads(path.read_text(encoding="utf-8")).items()}
    ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert {k: s for k, s in ours.items() if not k.startswith("projectors.pe.")} == released


def test_mini_is_a_tenth_and_named_alike() -> None:
    """The small recipe has the release's modules, fewer and narrower."""
    mini, base = build(RECIPES["chorus_mini"]), build(RECIPES["chorus_base"])
    size = sum(p.numel() for p in mini.backbone.parameters())
    assert size < 108_461_424 / 9
    assert {k for k in mini.state_dict() if k.startswith("backbone")} <= set(base.state_dict())


def test_teachers_change_heads() -> None:
    recipe = RECIPES["chorus_mini"]
    raw = TeacherConfig("gen", 32, phi_s=True)
    changed = recipe.with_teachers((replace(recipe.pretrain.teachers[0], dim=7), raw))
    assert dict(changed.model.heads) == {"lang": 7, "gen": 32}
    assert changed.model.raw_heads == ("gen",)
    assert changed.pretrain.steps == recipe.pretrain.steps
    assert RECIPES["chorus_base"].model.raw_heads == ("pe",)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_labels_are_used_as_far_as_asked(recipe: Recipe) -> None:
    assert recipe.with_labels("all") == recipe
    for labels in LABELS:
        changed = recipe.with_labels(labels)
        assert (changed.pretrain.labels, changed.model) == (labels, recipe.model)
    for teacher in recipe.pretrain.teachers:
        paper, named, alone = (teacher.with_labels(labels) for labels in ("contrast", "teacher", "none"))
        assert (paper.contrast, paper.text_weight, paper.class_power) == (teacher.contrast, 0.0, 1.0)
        assert named.contrast == ("none" if teacher.contrast == "instance" else teacher.contrast)
        assert (named.text_weight, named.class_power) == (teacher.text_weight, teacher.class_power)
        assert (alone.contrast, alone.text_weight, alone.class_power) == ("none", 0.0, 1.0)
        assert (alone.weight, alone.starts_at) == (teacher.weight, teacher.starts_at)


def test_the_object_aware_teacher_joins_late() -> None:
    for recipe in RECIPES.values():
        starts = {t.head: t.starts_at for t in recipe.pretrain.teachers}
        assert {h for h, start in starts.items() if start > 0} <= {"obj", "pe"}
        assert math.isclose(max(starts.values()), 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"teachers": ()},
        {"teachers": (TeacherConfig("a", 3), TeacherConfig("a", 4))},
        {"steps": 0},
        {"batch_scenes": 0},
        {"teachers": (TeacherConfig("late", 3, starts_at=0.5),)},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected at least"):
        PretrainConfig(**{"teachers": (TeacherConfig("a", 3),), **options})
