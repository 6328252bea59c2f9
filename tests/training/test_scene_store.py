"""What a batch says belongs to the Gaussians it is made of, however they were changed, thinned and ordered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_scenes import STILL

from chorus_core.encoder.inputs import gaussian_channels
from chorus_core.encoder.model import ModelConfig
from chorus_core.gaussians import Gaussians
from chorus_core.io.scene_folder import SceneFolderError, save_scene
from training.augment import AugmentConfig
from training.prepared import InstanceInfo, LiftedFeatures, PreparedScene, SceneInfo, save_prepared
from training.scene_store import (
    Batch,
    SceneStore,
    class_names,
    collate,
    draw_sample,
    map_tensors,
    whole_scene,
    with_levels,
)

CLASSES = ("apple", "bowl", "chair")


def number_scene(name: str, count: int, seed: int) -> PreparedScene:
    """A scene whose Gaussians are told by their opacity, and whose features, classes and instances are told by it too.

    Gaussian i has opacity (i + 1) / 1024 and features (i, -i); every fifth has none. ``segment`` is i mod 4 - 1.
    """
    rng = torch.Generator().manual_seed(seed)
    i = torch.arange(count)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1)
    gaussians = Gaussians(
        torch.rand(count, 3, generator=rng), quats, torch.rand(count, 3, generator=rng) * 0.05 + 0.01,
        (i + 1) / 1024, torch.rand(count, 3, generator=rng),
    )  # fmt: skip
    # The table is in another order than the Gaussians, and has no row for those without features.
    valid = (i % 5 != 0).nonzero().squeeze(1)
    order = valid[torch.randperm(len(valid), generator=rng)]
    index = torch.full((count,), -1)
    index[order] = torch.arange(len(order))
    table = torch.stack((order, -order), dim=1).half()
    things = tuple(InstanceInfo(CLASSES[k % 3], "", f"color {k}") for k in range(7))
    normals = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=1)
    lifted = {"lang": LiftedFeatures(table, index), "gen": LiftedFeatures(3 * table, index)}
    return PreparedScene(
        SceneInfo(name, 0.05, ("chair", "bowl", "apple"), things), gaussians, normals, i % 4 - 1, i % 8 - 1, lifted
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k in range(4):
        save_prepared(tmp_path / "train" / f"s{k}", number_scene(f"s{k}", 300 + 40 * k, k))
    return tmp_path


def check(batch: Batch, opacity: torch.Tensor, segment: torch.Tensor, instance: torch.Tensor) -> None:
    """All that the batch says of each voxel is what its Gaussian, known by its opacity, is about."""
    i = (opacity * 1024).round().long() - 1
    table = torch.tensor([CLASSES.index(name) for name in ("chair", "bowl", "apple")] + [-1])
    assert torch.equal(segment, table[i % 4 - 1])
    assert torch.equal(instance, i % 8 - 1)
    assert torch.equal(batch.valid["lang"], i % 5 != 0)
    assert torch.equal(batch.valid["gen"], i % 5 != 0)
    told = batch.valid["lang"]
    expected = torch.stack((i, -i), dim=1).half()[told]
    assert torch.equal(batch.targets["lang"][told], expected)
    assert torch.equal(batch.targets["gen"][told], 3 * expected)


@pytest.mark.parametrize("seed", range(5))
def test_targets_follow_their_gaussians(root: Path, seed: int) -> None:
    """Through random poses, thinning, a crop, coarser voxels and being laid end to end."""
    config = replace(AugmentConfig(), attribute_drop=0.0, max_points=250, partial=0.0, grid=(1.0, 3.0))
    store = SceneStore(root, "train", ("lang", "gen"), CLASSES)
    parts = [draw_sample(store[k], config, 0.02, (seed, k), points=False) for k in (2, 0, 3)]
    batch = collate(parts)
    assert batch.offset.tolist() == np.cumsum([len(p.grid) for p in parts]).tolist()
    assert batch.feat.shape == (int(batch.offset[-1]), 11)
    assert int(batch.offset[-1]) < 750, "some Gaussians share a voxel"
    scene = torch.bucketize(torch.arange(len(batch.grid)), batch.offset, right=True)
    own = torch.where(batch.instance >= 0, batch.instance - 7 * scene, -1)
    check(batch, batch.feat[:, 3], batch.segment, own)
    assert batch.category == tuple(CLASSES[k % 3] for _ in range(3) for k in range(7))
    assert batch.color[7:9] == ("color 0", "color 1")
    for k, part in enumerate(parts):
        assert torch.equal(batch.grid[scene == k], part.grid)
        assert len(part.grid.unique(dim=0)) == len(part.grid), "a Gaussian a voxel"
        assert int(part.grid.min()) == 0


def test_the_most_opaque_stands_for_its_voxel(root: Path) -> None:
    stored = SceneStore(root, "train", ("lang", "gen"), CLASSES)[3]
    batch = draw_sample(stored, replace(STILL, grid=(4.0, 4.0)), 0.02, (0,), points=False)
    means = (stored.gaussians.means - stored.gaussians.means.mean(0)).double().numpy()
    best: dict[tuple[int, ...], float] = {}
    for cell, opacity in zip(np.floor(means / 0.2).astype(int), stored.gaussians.opacities.tolist(), strict=True):
        best[tuple(cell)] = max(best.get(tuple(cell), 0.0), opacity)
    assert sorted(batch.feat[:, 3].tolist()) == sorted(best.values())


def test_a_whole_scene_is_left_as_it_is(root: Path) -> None:
    stored = SceneStore(root, "train", ("lang", "gen"), CLASSES)[0]
    fine = replace(stored, voxel_size=1e-4)
    batch = whole_scene(fine, 0.02, points=False)
    assert len(batch.grid) == len(stored.gaussians)
    check(batch, batch.feat[:, 3], batch.segment, batch.instance)
    order = (batch.feat[:, 3] * 1024).round().long() - 1
    assert torch.equal(batch.feat, gaussian_channels(stored.gaussians)[order])
    coarse = whole_scene(replace(stored, voxel_size=0.0), 0.25, points=False)
    assert int(coarse.grid.max()) <= 4, "the model's own grid where the scene has none"


@pytest.mark.parametrize("config", [STILL, AugmentConfig()])
def test_points_have_their_own_channels(root: Path, config: AugmentConfig) -> None:
    stored = SceneStore(root, "train", ("lang", "gen"), CLASSES)[1]
    points = draw_sample(stored, config, 0.02, (4, 1), points=True)
    gaussians = draw_sample(stored, config, 0.02, (4, 1), points=False)
    assert points.feat.shape == (len(points.grid), 9)
    assert torch.equal(points.grid, gaussians.grid), "the same variant of the scene"
    assert torch.equal(points.targets["lang"], gaussians.targets["lang"])
    assert torch.allclose(points.feat[:, 3:6], gaussians.feat[:, :3]), "colours"
    assert torch.allclose(points.feat[:, 6:].norm(dim=1), torch.ones(len(points.grid)), atol=1e-5)
    if config is STILL:
        i = (gaussians.feat[:, 3] * 1024).round().long() - 1
        assert torch.allclose(points.feat[:, 6:], stored.normals[i], atol=1e-3), "files hold normals in half precision"
        low, high = stored.gaussians.means.aminmax(dim=0)
        centre = torch.stack(((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]))
        assert torch.allclose(points.feat[:, :3], stored.gaussians.means[i] - centre, atol=1e-5)


def test_a_seed_gives_one_variant(root: Path) -> None:
    stored = SceneStore(root, "train", ("lang",), CLASSES)[1]
    first, same, other = (draw_sample(stored, AugmentConfig(), 0.02, (3, k), points=False) for k in (1, 1, 2))
    assert torch.equal(first.feat, same.feat)
    assert torch.equal(first.grid, same.grid)
    assert first.feat.shape != other.feat.shape or not torch.equal(first.feat, other.feat)


def test_which_views_saw_a_gaussian_is_read_where_it_is_known(root: Path) -> None:
    np.save(root / "train" / "s1" / "seen.npy", np.arange(340))
    store = SceneStore(root, "train", ("lang",), CLASSES)
    assert torch.equal(store[1].seen, torch.arange(340))
    assert store[1].views == 9
    assert store[0].seen is None
    assert list(store[1].features) == ["lang"]


def test_kept_scenes_are_those_that_would_be_read(root: Path) -> None:
    kept, read = (SceneStore(root, "train", ("lang", "gen"), CLASSES, keep=keep) for keep in (True, False))
    assert kept[2] is kept[2]
    assert read[2] is not read[2]
    for k in range(len(read)):
        ours, theirs = (draw_sample(store[k], AugmentConfig(), 0.02, (1, k), points=False) for store in (kept, read))
        assert torch.equal(ours.feat, theirs.feat)
        assert torch.equal(ours.targets["gen"], theirs.targets["gen"])
        assert ours.category == theirs.category
    with pytest.raises(SceneFolderError, match=r"no obj_feat\.npy"):
        SceneStore(root, "train", ("obj",), CLASSES, keep=True)


def test_a_batch_is_copied_whole(root: Path) -> None:
    """Every tensor, those of the geometry too; words and structure stay."""
    store = SceneStore(root, "train", ("lang", "gen"), CLASSES)
    model = ModelConfig(enc_channels=(8, 8), enc_depths=(1, 2), enc_num_head=(1, 1), patch_size=16)
    batch = with_levels(collate([whole_scene(store[k], 0.02, points=False) for k in (0, 2)]), model, [[1], [2, 0]])
    assert [len(level.patches) for level in batch.levels] == [1, 2]
    moved = batch.to(torch.device("meta"))
    seen: list[torch.Tensor] = []
    again = map_tensors(moved, lambda tensor: seen.append(tensor) or tensor)
    assert all(tensor.device.type == "meta" for tensor in seen)
    assert len(seen) == 5 + 2 + 2 + sum(2 + (k > 0) + 3 * len(v.patches) for k, v in enumerate(batch.levels)) + sum(
        cut.short_mask is not None for level in batch.levels for cut in level.patches
    )
    assert (again.category, again.color) == (batch.category, batch.color)
    assert [len(level) for level in again.levels] == [len(level) for level in batch.levels]


def test_scenes_without_a_description(root: Path) -> None:
    """As the SceneSplat releases have them: classes are numbers of a table that all scenes share."""
    made = number_scene("plain", 200, 9)
    save_scene(
        root / "train" / "plain", made.gaussians, segment=made.segment.numpy() * 30, instance=made.instance.numpy()
    )
    np.save(root / "train" / "plain" / "lang_feat.npy", made.features["lang"].table.numpy()[:1].repeat(200, 0))
    store = SceneStore(root, "train", ("lang",), CLASSES)
    stored = store[0]
    assert store.folders[0].name == "plain"
    assert torch.equal(stored.segment, made.segment * 30)
    assert stored.category == ()
    assert class_names(root, ("train",)) == tuple(sorted(CLASSES))
    plain = whole_scene(replace(stored, voxel_size=1e-4), 0.02, points=False)
    named = whole_scene(replace(store[1], voxel_size=1e-4), 0.02, points=False)
    batch = collate([plain, named, plain, plain])
    first, second, third, fourth = (len(part.grid) for part in (plain, named, plain, plain))
    parts = batch.instance.split([first, second, third, fourth])
    groups = [set(part[part >= 0].tolist()) for part in parts]
    assert [len(g) for g in groups] == [7, 7, 7, 7]
    assert len(set.union(*groups)) == 28, "no two scenes share an instance"
    assert [batch.category[k] for k in sorted(groups[1])] == [CLASSES[k % 3] for k in range(7)], (
        "words stay with theirs"
    )
    assert len(batch.category) == len(batch.color) == 28


def test_a_teacher_that_saw_nothing_says_nothing(root: Path) -> None:
    made = number_scene("dark", 50, 1)
    nothing = LiftedFeatures(torch.zeros(0, 2).half(), torch.full((50,), -1))
    save_prepared(root / "train" / "dark", replace(made, features={"lang": nothing, "gen": made.features["gen"]}))
    store = SceneStore(root, "train", ("lang", "gen"), CLASSES)
    batch = whole_scene(store[0], 0.02, points=False)
    assert not batch.valid["lang"].any()
    assert batch.targets["lang"].shape == (len(batch.grid), 2)
    assert batch.valid["gen"].any()


def test_what_is_missing_is_named(root: Path) -> None:
    with pytest.raises(SceneFolderError, match="test: no prepared scenes"):
        SceneStore(root, "test", ("lang",), CLASSES)
    with pytest.raises(SceneFolderError, match=r"no obj_feat\.npy"):
        SceneStore(root, "train", ("obj",), CLASSES)[0]
    (root / "train" / "s2" / "scene.json").write_text("{")
    with pytest.raises(SceneFolderError, match=r"scene\.json"):
        SceneStore(root, "train", ("lang",), CLASSES)[2]
