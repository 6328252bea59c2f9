"""Prepared scenes: what goes in comes out, releases open, broken folders are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.gaussians import Gaussians
from chorus_core.io.scene_folder import SceneFolderError
from training.prepared import (
    InstanceInfo,
    LiftedFeatures,
    PreparedScene,
    SceneInfo,
    load_prepared,
    prepared_scenes,
    save_prepared,
)


def random_scene(count: int, seed: int = 0, heads: tuple[str, ...] = ("lang", "dino")) -> PreparedScene:
    rng = np.random.default_rng(seed)
    quats = Rotation.random(count, random_state=seed).as_quat(canonical=True, scalar_first=True) if count else []
    gaussians = Gaussians(
        *(
            torch.tensor(np.asarray(values), dtype=torch.float32).reshape(count, *shape)
            for values, shape in (
                (rng.normal(size=(count, 3)), (3,)),
                (quats, (4,)),
                (rng.uniform(0.001, 0.1, size=(count, 3)), (3,)),
                (rng.uniform(size=count), ()),
                (rng.integers(0, 256, size=(count, 3)) / 255, (3,)),
            )
        )
    )
    normals = torch.nn.functional.normalize(torch.tensor(rng.normal(size=(count, 3)), dtype=torch.float32), dim=1)
    features = {}
    for width, head in enumerate(heads, start=3):
        rows = int(rng.integers(0, count + 1))
        table = torch.tensor(rng.normal(size=(rows, width)), dtype=torch.float16)
        features[head] = LiftedFeatures(table, torch.from_numpy(rng.integers(-1, rows, size=count)))
    instances = (InstanceInfo("chair", "c_1", "red"), InstanceInfo("straße"))
    info = SceneInfo("room", 0.03, ("chair", "straße"), instances, {"lang": "siglip2"}, {"views": 3, "scale": 0.5})
    labels = [torch.from_numpy(rng.integers(-1, 2, size=count)) for _ in range(2)]
    return PreparedScene(info, gaussians, normals, *labels, features)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(0, 30), seed=st.integers(0, 2**31 - 1))
def test_round_trip(tmp_path_factory, count, seed):
    folder = tmp_path_factory.mktemp("prepared") / "train" / "room"
    before = random_scene(count, seed)
    save_prepared(folder, before)
    after = load_prepared(folder)
    assert after.info == before.info
    for name in ("means", "scales", "opacities", "colors"):
        assert torch.equal(getattr(after.gaussians, name), getattr(before.gaussians, name)), name
    torch.testing.assert_close(after.gaussians.quats, before.gaussians.quats)
    torch.testing.assert_close(after.normals, before.normals, atol=1e-3, rtol=0)
    assert torch.equal(after.segment, before.segment) and torch.equal(after.instance, before.instance)
    assert set(after.features) == {"lang", "dino"}
    for head, lifted in before.features.items():
        assert torch.equal(after.features[head].table, lifted.table)
        assert torch.equal(after.features[head].index, lifted.index)
        assert after.features[head].table.dtype == torch.float16


def test_files_are_those_of_the_releases(tmp_path):
    save_prepared(tmp_path, random_scene(9))
    arrays = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    types = {name: (str(values.dtype), values.shape[1:]) for name, values in arrays.items()}
    assert types == {
        "coord": ("float32", (3,)), "color": ("uint8", (3,)), "opacity": ("float32", ()), "quat": ("float32", (4,)),
        "scale": ("float32", (3,)), "normal": ("float16", (3,)), "segment": ("int32", ()), "instance": ("int32", ()),
        "lang_feat": ("float16", (3,)), "lang_feat_index": ("int32", ()),
        "dino_feat": ("float16", (4,)), "dino_feat_index": ("int32", ()),
    }  # fmt: skip
    assert all(len(values) == 9 for name, values in arrays.items() if not name.endswith("_feat"))


def test_only_the_wanted_heads(tmp_path):
    save_prepared(tmp_path, random_scene(9))
    assert list(load_prepared(tmp_path, heads=["dino"]).features) == ["dino"]
    assert load_prepared(tmp_path, heads=()).features == {}
    with pytest.raises(SceneFolderError, match=r"no pe_feat\.npy; features are there of \['dino', 'lang'\]"):
        load_prepared(tmp_path, heads=["lang", "pe"])


def test_saving_anew_leaves_nothing_of_before(tmp_path):
    save_prepared(tmp_path, random_scene(9, heads=("lang", "pe")))
    save_prepared(tmp_path, random_scene(5, heads=("lang",)))
    after = load_prepared(tmp_path)
    assert len(after.gaussians) == 5 and list(after.features) == ["lang"]
    assert not list(tmp_path.glob("pe_*"))


def test_a_save_cut_short_does_not_look_whole(tmp_path, monkeypatch):
    save_prepared(tmp_path, random_scene(9))

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.prepared.save_scene", killed)
    with pytest.raises(KeyboardInterrupt):
        save_prepared(tmp_path, random_scene(9, seed=1))
    assert not (tmp_path / "scene.json").exists()


def write_release(folder: Path, count: int = 12) -> PreparedScene:
    """A folder as the SceneSplat releases have it: half precision, no scene.json, no normals."""
    scene = random_scene(count, heads=())
    folder.mkdir(parents=True)
    g = scene.gaussians
    np.save(folder / "coord.npy", g.means.numpy().astype(np.float16))
    np.save(folder / "color.npy", (g.colors * 255).round().numpy().astype(np.uint8))
    np.save(folder / "opacity.npy", g.opacities.numpy().astype(np.float16))
    np.save(folder / "quat.npy", g.quats.numpy().astype(np.float16))
    np.save(folder / "scale.npy", g.scales.numpy().astype(np.float16))
    return scene


def test_a_release_with_indexed_features(tmp_path):
    scene = write_release(tmp_path / "scene0000_00_1")
    np.save(tmp_path / "scene0000_00_1" / "segment.npy", np.arange(12, dtype=np.int16)[:, None] - 1)
    np.save(tmp_path / "scene0000_00_1" / "lang_feat.npy", np.eye(4, 8, dtype=np.float16))
    np.save(tmp_path / "scene0000_00_1" / "lang_feat_index.npy", np.arange(12, dtype=np.int32) % 5 - 1)
    after = load_prepared(tmp_path / "scene0000_00_1")
    assert after.info == SceneInfo("scene0000_00_1")
    torch.testing.assert_close(after.gaussians.means, scene.gaussians.means, atol=3e-3, rtol=0)
    assert after.segment.tolist() == list(range(-1, 11)) and (after.instance == -1).all()
    assert after.features["lang"].index.tolist() == [k % 5 - 1 for k in range(12)]
    # without normals: the shortest axis of each Gaussian
    rotation = Rotation.from_quat(after.gaussians.quats.numpy(), scalar_first=True).as_matrix()
    shortest = np.take_along_axis(rotation, after.gaussians.scales.argmin(1).numpy()[:, None, None], axis=2)[..., 0]
    np.testing.assert_allclose(after.normals, shortest, atol=1e-5)


def test_the_first_release_has_a_row_each_and_a_mask(tmp_path):
    write_release(tmp_path / "a")
    table = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float16)
    np.save(tmp_path / "a" / "lang_feat.npy", table)
    assert load_prepared(tmp_path / "a").features["lang"].index.tolist() == list(range(12))
    mask = np.arange(12) % 3 > 0
    np.save(tmp_path / "a" / "valid_feat_mask.npy", mask.astype(np.int64))
    lifted = load_prepared(tmp_path / "a").features["lang"]
    assert lifted.index.tolist() == np.where(mask, np.arange(12), -1).tolist()
    np.testing.assert_array_equal(lifted.table.numpy(), table)


def test_listing(tmp_path):
    for name in ("b", "a"):
        save_prepared(tmp_path / "val" / name, random_scene(3))
    assert [path.name for path in prepared_scenes(tmp_path, "val")] == ["a", "b"]
    with pytest.raises(SceneFolderError, match="no prepared scenes"):
        prepared_scenes(tmp_path, "train")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "coord.npy").unlink(), r"coord\.npy"),
        (lambda f: (f / "lang_feat.npy").write_bytes(b"\x93NUMPY"), r"lang_feat\.npy: damaged or of another form"),
        (lambda f: np.save(f / "lang_feat.npy", np.zeros(3, np.float16)), r"lang_feat_index\.npy.*table \(3,\)"),
        (lambda f: np.save(f / "lang_feat.npy", np.zeros((0, 3), np.float16)), r"expected \(9,\) with rows of it"),
        (lambda f: np.save(f / "lang_feat_index.npy", np.zeros(8, np.int32)), r"expected \(9,\) with rows of it"),
        (lambda f: (f / "lang_feat_index.npy").unlink(), r"expected \(9,\) with rows of it"),
        (lambda f: np.save(f / "segment.npy", np.zeros((9, 2), np.int32)), r"segment\.npy has shape \(9, 2\)"),
        (lambda f: np.save(f / "normal.npy", np.zeros((9, 2), np.float16)), r"normal\.npy has shape \(9, 2\)"),
        (lambda f: (f / "scene.json").write_text("[]"), r"scene\.json: expected a mapping"),
        (lambda f: (f / "scene.json").write_text('"room"'), r"scene\.json: expected a mapping"),
        (lambda f: (f / "scene.json").write_text("{"), r"scene\.json: damaged"),
        (lambda f: (f / "scene.json").write_text('{"name": "a", "colour": 1}'), "colour"),
        (lambda f: (f / "scene.json").write_text('{"name": "a", "instances": [{"size": 1}]}'), "size"),
    ],
)
def test_broken(tmp_path, break_it, message):
    scene = random_scene(9, seed=4)
    scene.features["lang"] = LiftedFeatures(torch.ones(2, 3, dtype=torch.float16), torch.arange(9) % 2)
    save_prepared(tmp_path, scene)
    load_prepared(tmp_path)
    break_it(tmp_path)
    with pytest.raises(SceneFolderError, match=message):
        load_prepared(tmp_path)


def test_features_that_do_not_fit_are_not_written(tmp_path):
    scene = random_scene(9)
    scene.features["lang"] = LiftedFeatures(torch.ones(2, 3, dtype=torch.float16), torch.zeros(8, dtype=torch.int64))
    with pytest.raises(SceneFolderError, match=r"lang: index of shape \(8,\), expected \(9,\)"):
        save_prepared(tmp_path / "a", scene)
    scene.features["lang"] = LiftedFeatures(torch.ones(2, 3, dtype=torch.float16), torch.full((9,), 2))
    with pytest.raises(SceneFolderError, match="lang: index up to 2 for 2 features"):
        save_prepared(tmp_path / "a", scene)
    assert not (tmp_path / "a").exists()


def test_the_description_is_plain_json(tmp_path):
    save_prepared(tmp_path, random_scene(2))
    tree = json.loads((tmp_path / "scene.json").read_text(encoding="utf-8"))
    assert tree["classes"] == ["chair", "straße"] and tree["instances"][0]["object_id"] == "c_1"
