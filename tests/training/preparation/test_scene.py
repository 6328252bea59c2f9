"""One scene through its stages: from each source of Gaussians, resumed after each stage, skipped, cut, failing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_rooms import CAMERA, ColorTeacher, poses, wall_and_floor

from chorus_core.config import MapConfig
from chorus_core.rendering import View, render
from training.datasets.base import LabelledPoints, PosedImage, SceneSource
from training.preparation import scene as scene_module
from training.preparation.config import CutConfig, FitConfig, LiftConfig, PrepareConfig
from training.preparation.scene import PreparationError, prepare_scene
from training.preparation.stages import Stages
from training.prepared import InstanceInfo, load_prepared, prepared_scenes

CONFIG = PrepareConfig(device="cpu", label_reach=0.06, map=MapConfig(voxel_size=0.05))


@pytest.fixture(scope="module")
def source() -> SceneSource:
    """A room with images, depth, Gaussians and labels."""
    g = wall_and_floor(0)
    images = []
    for number, pose in enumerate(poses(4)):
        drawn = render(g, View(CAMERA, pose))
        color = (drawn.color.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        depth = np.where(drawn.alpha.numpy() > 0.5, drawn.depth.numpy(), 0).astype(np.float32)
        images.append(PosedImage(str(number), CAMERA, pose, lambda c=color: c, lambda d=depth: d))
    half = np.repeat([0, 1], len(g) // 2)
    things = (InstanceInfo("wall"), InstanceInfo("floor"))
    labels = LabelledPoints(g.means.numpy(), half, half, ("wall", "floor"), things)
    return SceneSource("room", "train", images, lambda: g, lambda: labels, 0.05)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_given_scene_is_written_with_labels_features_and_facts(source: SceneSource, tmp_path: Path) -> None:
    result = prepare_scene(source, tmp_path, [ColorTeacher()], CONFIG)
    assert result.outputs == (tmp_path / "train" / "room",) and not result.skipped
    assert prepared_scenes(tmp_path, "train") == [tmp_path / "train" / "room"]
    loaded = load_prepared(result.outputs[0])
    g = source.gaussians()
    torch.testing.assert_close(loaded.gaussians.means, g.means)
    assert torch.equal(loaded.segment, torch.repeat_interleave(torch.arange(2), len(g) // 2))
    assert loaded.info.classes == ("wall", "floor") and loaded.info.voxel_size == 0.05
    assert loaded.info.teachers == {"color": "color"} and loaded.info.facts["gaussians"] == "given"
    color = loaded.features["color"]
    seen = color.index >= 0
    # What the teacher says of a Gaussian is about its own colour.
    assert (color.table[color.index[seen]].float() - g.colors[seen]).abs().mean() < 0.08
    assert not (tmp_path / ".prepare" / "train" / "room").exists()  # stages are gone


def test_the_online_map_gives_gaussians_where_there_are_none(source: SceneSource, tmp_path: Path) -> None:
    bare = replace(source, gaussians=None, voxel_size=0.0)
    loaded = load_prepared(prepare_scene(bare, tmp_path, [ColorTeacher()], CONFIG).outputs[0])
    assert loaded.info.facts["gaussians"] == "map" and loaded.info.voxel_size == 0.05
    assert len(loaded.gaussians) > 300
    wall = loaded.segment == 0
    assert wall.sum() > 100 and (loaded.gaussians.means[wall, 2] - 2).abs().median() < 0.05


def test_a_photometric_fit_needs_no_depth(source: SceneSource, tmp_path: Path) -> None:
    images = [replace(image, depth=None) for image in source.images]
    bare = replace(source, gaussians=None, images=images, voxel_size=0.0)
    config = replace(CONFIG, fit=FitConfig(steps=10, cap=220, initial=200), lift=LiftConfig(max_width=32))
    loaded = load_prepared(prepare_scene(bare, tmp_path, [ColorTeacher()], config).outputs[0])
    assert loaded.info.facts["gaussians"] == "fit" and loaded.info.voxel_size == 0
    assert 0 < len(loaded.gaussians) <= 220


def test_a_finished_scene_is_skipped_until_something_it_depends_on_changes(source: SceneSource, tmp_path: Path) -> None:
    teacher = ColorTeacher()
    prepare_scene(source, tmp_path, [teacher], CONFIG)
    before = contents(tmp_path)
    again = prepare_scene(source, tmp_path, [teacher], CONFIG)
    assert again.skipped and teacher.images == 4 and contents(tmp_path) == before
    assert prepare_scene(source, tmp_path, [teacher], replace(CONFIG, keep_stages=True)).skipped
    assert not prepare_scene(source, tmp_path, [teacher], replace(CONFIG, every=2)).skipped
    assert not prepare_scene(source, tmp_path, [ColorTeacher(name="newer")], replace(CONFIG, every=2)).skipped
    (tmp_path / "train" / "room" / "coord.npy").unlink()
    assert not prepare_scene(source, tmp_path, [ColorTeacher(name="newer")], replace(CONFIG, every=2)).skipped


class Stopped(BaseException):
    """What a kill is to a test that must go on."""


@pytest.mark.parametrize("stage", ["lift_views", "label_gaussians", "save_prepared"])
def test_a_scene_stopped_after_any_stage_ends_with_the_same_bytes(
    source: SceneSource, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = replace(source, gaussians=None)
    prepare_scene(bare, tmp_path / "whole", [ColorTeacher()], CONFIG)

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    from training.preparation import record

    with monkeypatch.context() as patch:
        patch.setattr(record if stage == "save_prepared" else scene_module, stage, stop)
        with pytest.raises(Stopped):
            prepare_scene(bare, tmp_path / "stopped", [ColorTeacher()], CONFIG)
        assert not (tmp_path / "stopped" / "train").exists()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("done already")

    teacher = ColorTeacher()
    with monkeypatch.context() as patch:
        patch.setattr(scene_module, "map_images", never)
        if stage != "lift_views":
            patch.setattr(scene_module, "lift_views", never)
        prepare_scene(bare, tmp_path / "stopped", [teacher], CONFIG)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_only_a_new_teacher_looks_at_the_images_when_stages_are_kept(source: SceneSource, tmp_path: Path) -> None:
    config = replace(CONFIG, keep_stages=True)
    old, new = ColorTeacher(), ColorTeacher("second", name="second")
    prepare_scene(source, tmp_path, [old], config)
    folder = prepare_scene(source, tmp_path, [old, new], config).outputs[0]
    assert (old.images, new.images) == (4, 4)
    assert sorted(load_prepared(folder).features) == ["color", "second"]


def test_chunks_replace_the_whole_scene_and_other_chunks(source: SceneSource, tmp_path: Path) -> None:
    prepare_scene(source, tmp_path, [ColorTeacher()], CONFIG)
    cut = replace(CONFIG, chunk=CutConfig(size=1.5, stride=0.7, min_gaussians=100))
    result = prepare_scene(source, tmp_path, [ColorTeacher()], cut)
    assert len(result.outputs) > 1
    assert prepared_scenes(tmp_path, "train") == sorted(result.outputs)
    larger = replace(CONFIG, chunk=CutConfig(size=2.5, stride=2.5, min_gaussians=100))
    prepare_scene(source, tmp_path, [ColorTeacher()], larger)
    assert len(prepared_scenes(tmp_path, "train")) < len(result.outputs)
    with pytest.raises(PreparationError, match="fewer than the 50000"):
        prepare_scene(source, tmp_path, [ColorTeacher()], replace(CONFIG, chunk=CutConfig(size=6.0)))


def test_what_a_scene_lacks_is_named(source: SceneSource, tmp_path: Path) -> None:
    nothing = replace(source, gaussians=None, images=[])
    with pytest.raises(PreparationError, match="room has no Gaussians and no images with depth and no images"):
        prepare_scene(nothing, tmp_path, [], CONFIG)
    with pytest.raises(PreparationError, match="no Gaussians"):
        prepare_scene(replace(source, gaussians=None), tmp_path, [], replace(CONFIG, gaussians="given"))
    with pytest.raises(PreparationError, match="plain file name"):
        prepare_scene(replace(source, name="../room"), tmp_path, [], CONFIG)


def test_images_that_see_nothing_are_an_error(source: SceneSource, tmp_path: Path) -> None:
    away = np.diag([-1.0, 1.0, -1.0, 1.0])
    away[2, 3] = -5.0
    images = [replace(image, world_from_camera=away) for image in source.images]
    with pytest.raises(PreparationError, match="no Gaussian shows in any of 4 images"):
        prepare_scene(replace(source, images=images), tmp_path, [ColorTeacher()], CONFIG)


def test_stages_are_kept_bit_for_bit_and_only_for_their_key(tmp_path: Path) -> None:
    stages = Stages(tmp_path / "scene")
    tensors = {"a": torch.randn(5, 3), "b": torch.arange(4)}
    tensors["same"] = tensors["a"][1:]  # shares memory
    stages.put("x", "key", tensors)
    found = stages.get("x", "key")
    assert all(torch.equal(found[k], v) for k, v in tensors.items())
    assert stages.get("x", "other") is None and stages.get("y", "key") is None
    path = tmp_path / "scene" / "x.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert stages.get("x", "key") is None
    stages.clear()
    assert not path.exists()
