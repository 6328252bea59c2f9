from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_core.config import EncoderConfig
from chorus_core.encoder import ChorusEncoder, ChorusModel, ModelConfig
from chorus_core.encoder.features import encoding_grid
from chorus_core.io.scene_folder import SceneFolderError
from training.datasets.base import LabelledPoints
from training.evaluation.points import save_points
from training.evaluation.prepared_scenes import (
    encode_scene,
    lifted_scene,
    load_scenes,
    scene_classes,
    with_classes,
)
from training.prepared import LiftedFeatures, save_prepared


def tiny(in_channels: int, grid_size: float = 0.1) -> ChorusEncoder:
    torch.manual_seed(0)
    config = ModelConfig(
        in_channels=in_channels, enc_channels=(8, 16), enc_depths=(1, 1), enc_num_head=(1, 2), patch_size=16,
        heads={"lang": 12}, head_ratio=1, grid_size=grid_size,
    )  # fmt: skip
    return ChorusEncoder(ChorusModel(config))


def cloud(n: int = 60) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1, (n, 3))


@pytest.mark.parametrize("channels", [9, 11])
def test_either_variant_encodes_a_scene(make_scene, channels: int) -> None:
    scene, encoder = make_scene(cloud(), np.zeros(60)), tiny(channels)
    features = encode_scene(encoder, scene)
    assert features.shape == (60, 12) and torch.isfinite(features).all()
    g = scene.gaussians
    direct = (
        encoder.encode_points(g.means, g.colors, scene.normals, grid_size=0.1)
        if channels == 9
        else encoder.encode(g, grid_size=0.1)
    )
    assert torch.equal(features, direct)
    assert encode_scene(encoder, scene, head=None).shape == (60, 24)
    assert not torch.equal(encode_scene(encoder, scene, grid_size=0.3), features)


def test_the_grid_is_the_coarser_one() -> None:
    def reading_at(**description: float) -> ChorusEncoder:
        return ChorusEncoder(tiny(11, grid_size=0.02).model, description)

    assert encoding_grid(reading_at(), 0.05) == 0.05
    assert encoding_grid(reading_at(), 0.01) == 0.02
    assert encoding_grid(reading_at(grid_size=0.1), 0.05) == 0.1
    assert encoding_grid(reading_at(grid_size=0.1), 0.01, replace(EncoderConfig(), grid_size=0.04)) == 0.04


def test_lifted_features_are_zero_where_there_are_none(make_scene) -> None:
    scene = make_scene(cloud(3), np.zeros(3))
    table = torch.ones(2, 4, dtype=torch.float16)
    scene.features["lang"] = LiftedFeatures(table, torch.tensor([1, -1, 0]))
    assert lifted_scene(scene, "lang").sum(dim=1).tolist() == [4, 0, 4]
    with pytest.raises(SceneFolderError, match="dino"):
        lifted_scene(scene, "dino")


def test_labels_go_by_name(make_scene) -> None:
    scene = make_scene(cloud(4), [0, 1, 2, -1], classes=("lamp", "wall", "chair"))
    points = LabelledPoints(cloud(2), np.array([2, -1]), np.array([0, -1]), scene.info.classes)
    found, carried = with_classes(scene, points, ("chair", "wall"))
    assert found.segment.tolist() == [-1, 1, 0, -1] and found.info.classes == ("chair", "wall")
    assert carried is not None and carried.segment.tolist() == [0, -1] and carried.classes == ("chair", "wall")


def test_a_scene_without_names_counts_through_those_given(make_scene) -> None:
    scene = make_scene(cloud(3), [0, 1, -1])
    assert with_classes(scene, None, ("a", "b"))[0].segment.tolist() == [0, 1, -1]
    with pytest.raises(SceneFolderError, match="less than 1"):
        with_classes(scene, None, ("a",))


def test_scenes_of_a_folder(make_scene, tmp_path: Path) -> None:
    for name, classes in (("a", ("wall", "chair")), ("b", ("chair", "lamp"))):
        save_prepared(tmp_path / name, make_scene(cloud(5), [0, 1, 1, 0, -1], classes=classes, name=name))
    points = LabelledPoints(cloud(2), np.array([0, 1]), np.array([0, 1]), ("chair", "lamp"))
    save_points(tmp_path / "b", points)
    folders = [tmp_path / "a", tmp_path / "b"]
    names = scene_classes(folders)
    assert names == ("wall", "chair", "lamp")
    one, two = load_scenes(folders, names)
    assert (one.name, one.points, one.folder) == ("a", None, folders[0])
    assert two.scene.segment.tolist() == [1, 2, 2, 1, -1] and two.points.segment.tolist() == [1, 2]
    (tmp_path / "a" / "scene.json").unlink()
    assert scene_classes(folders) == ("chair", "lamp")
    with pytest.raises(SceneFolderError, match="--classes"):
        scene_classes(folders[:1])
    (tmp_path / "a" / "scene.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(SceneFolderError, match=r"scene\.json"):
        scene_classes(folders)
