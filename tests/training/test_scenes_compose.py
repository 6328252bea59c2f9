"""The split, and rooms composed out of the real models (skipped where the asset folder is absent)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("embreex")
pytest.importorskip("trimesh")

from training.scenes import generate, primitives
from training.scenes.assets import ABSENT_CATEGORIES, EVERYDAY_CATEGORIES, AssetError, AssetLibrary, Split, load_glb
from training.scenes.camera import free_space, plan_path, tour
from training.scenes.compose import compose
from training.scenes.furnish import on_ceiling
from training.scenes.layout import Footprint, Layout, Model, Room
from training.scenes.scene_file import load_scene


@pytest.fixture(scope="module")
def assets(shared: Path) -> Path:
    folder = shared / "assets"
    if not folder.is_dir():
        pytest.skip(f"no asset folder at {folder}")
    return folder


@pytest.fixture(scope="module")
def library(assets: Path) -> AssetLibrary:
    return AssetLibrary(assets, texture_size=64)


def test_the_demo_world_appears_nowhere(library: AssetLibrary):
    assert library.objects and all(o.style != "aws_house" for o in library.objects.values())
    assert not [t for t in library.textures if t.path.name in ("floor__wood_planks_light.jpg", "wall__brick_grey.jpg")]
    split = Split.make(library)
    for subset in ("train", "val", "test"):
        assert not [i for i in split.allowed(subset) if "__aws_" in i]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_split_is_disjoint_and_keeps_everyday_categories(library: AssetLibrary, seed: int):
    split = Split.make(library, seed)
    assert split == Split.make(library, seed)
    assert set(split.subset_of) == set(library.objects)
    train = split.allowed("train")
    train_categories = {library.objects[i].category for i in train}
    assert not train_categories & split.held_back_categories
    assert not split.held_back_categories & EVERYDAY_CATEGORIES
    categories = {o.category for o in library.objects.values()}
    assert train_categories == categories - split.held_back_categories
    assert 0.07 < len(split.held_back_categories) / len(categories) < 0.13
    only_val, only_test = split.allowed("val") - train, split.allowed("test") - train
    assert only_val and only_test and not only_val & only_test


@pytest.mark.parametrize("seed", [0, 3])
def test_a_second_collection_leaves_the_split_of_the_first_alone(library: AssetLibrary, assets: Path, seed: int):
    if not (assets / "sweethome3d").is_dir():
        pytest.skip("no second collection")
    both = AssetLibrary(assets, assets / "sweethome3d")
    alone, together = Split.make(library, seed), Split.make(both, seed)
    assert set(both.objects) > set(library.objects)
    assert not {o.category for o in both.objects.values()} & ABSENT_CATEGORIES
    assert all(together.subset_of[i] == subset for i, subset in alone.subset_of.items())
    old = {o.category for o in library.objects.values()}
    assert together.held_back_categories & old == alone.held_back_categories
    new = {o.category for o in both.objects.values()} - old
    assert 0.07 < len(together.held_back_categories & new) / len(new) < 0.13
    assert set(together.subset_of) == set(both.objects)
    train = {both.objects[i].category for i in together.allowed("train")}
    assert not train & together.held_back_categories and train > {o.category for o in library.objects.values()} & train
    more = [o for o in both.objects.values() if o.collection == 1 and o.category == "chair"]
    assert {together.subset_of[o.object_id] for o in more} == {"train", "val", "test"}


def test_two_collections_hold_no_model_of_the_same_name(assets: Path):
    with pytest.raises(AssetError, match="a model of this name is in another asset folder too"):
        AssetLibrary(assets, assets)


def test_most_labels_of_the_house_are_seen_and_some_are_not(library: AssetLibrary, assets: Path):
    split = Split.make(library)
    seen = {library.objects[i].category for i in split.allowed("train")}
    seen |= {"painting", "picture_frame", "vase", "wall_lamp", "wall", "floor"}  # made in code
    with (assets / "house" / "scene.csv").open(newline="") as f:
        labels = {row["label"].replace(" ", "_") for row in csv.DictReader(f)}
    unseen = labels - seen
    assert {"chandelier", "exercise_ball", "weight_bench", "tablet", "security_camera", "spice_rack"} <= unseen
    assert len(unseen) < 12


def test_composed_scenes_are_furnished_and_deterministic(library: AssetLibrary):
    allowed = Split.make(library).allowed("train")
    for seed in range(4):
        scene, rooms = compose(library, allowed, np.random.default_rng(seed))
        again, _ = compose(library, allowed, np.random.default_rng(seed))
        assert np.array_equal(scene.triangles, again.triangles) and scene.instances == again.instances
        things = [i for i in scene.instances if not i.structure]
        assert 10 <= len(things) <= 45
        assert all(i.color for i in scene.instances)
        assert {i.object_id for i in things if not i.object_id.startswith("made:")} <= allowed
        low = np.min([r.low for r in rooms], axis=0) - 0.3
        high = np.max([r.high for r in rooms], axis=0) + 0.3
        corners = scene.triangles.reshape(-1, 3)
        assert (corners[:, :2] > low).all() and (corners[:, :2] < high).all()
        assert corners[:, 2].min() > -0.05 and corners[:, 2].max() < rooms[0].height + 0.05


def test_paths_keep_off_geometry(library: AssetLibrary):
    rng = np.random.default_rng(3)
    scene, _ = compose(library, Split.make(library).allowed("train"), rng)
    space = free_space(scene, 0.05, 1.0, 0.2, rng)
    cells = np.argwhere(space.free)
    path = plan_path(space, space.to_world(cells[0]), space.to_world(cells[-1]))
    assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 1.5 * space.cell
    index = np.floor((path - space.origin) / space.cell).astype(int)
    assert space.clearance[index[:, 0], index[:, 1]].min() > 0.2
    poses = tour(scene, 12, rng)
    assert poses.shape == (12, 4, 4)
    np.testing.assert_allclose(
        poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (12, 1, 1)), atol=1e-9
    )


def test_generated_scene_is_labelled_and_deterministic(library: AssetLibrary, assets: Path, tmp_path: Path):
    split = Split.make(library)
    made = []
    for folder in ("a", "b"):
        config = generate.GenerateConfig(assets, tmp_path / folder, voxel_size=(0.05, 0.06), views=(8, 8), seed=5)
        config.out.mkdir()
        made.append(load_scene(generate.generate_scene(config, library, split, 0)))
    first, second = made
    assert first.gaussians.means.equal(second.gaussians.means) and first.instance.equal(second.instance)
    assert first.instances == second.instances
    assert len(first.gaussians) > 2000
    assert (first.instance >= 0).float().mean() > 0.9
    assert first.instance.max() < len(first.instances)
    floor = [k for k, i in enumerate(first.instances) if i.category == "floor"]
    on_floor = torch_isin(first.instance, floor)
    assert first.gaussians.means[on_floor, 2].abs().median() < 0.03


def torch_isin(values, wanted):
    import torch

    return torch.isin(values, torch.tensor(wanted))


@pytest.mark.parametrize(("width", "placed"), [(0.4, True), (3.0, False)])
def test_what_is_wider_than_the_room_is_left_out(width: float, placed: bool):
    lamp = Model("made:lamp", "ceiling_lamp", (width, width, 0.2), primitives.vase(np.random.default_rng(0), 0.2))

    class OneLamp:
        def rare(self, place: str) -> Model:
            return lamp

    layout = Layout([Room(np.zeros(2), np.array([2.0, 4.0]), 2.5)], np.random.default_rng(1))
    on_ceiling(layout, layout.rooms[0], OneLamp())
    assert bool(layout.placements) == placed


def test_bad_assets_are_named(tmp_path: Path):
    with pytest.raises(AssetError, match=r"manifest\.csv"):
        AssetLibrary(tmp_path)
    (tmp_path / "manifest.csv").write_text("file,category\nx,y\n")
    with pytest.raises(AssetError, match="size_x"):
        AssetLibrary(tmp_path)


def test_untextured_glb_is_refused(tmp_path: Path):
    import trimesh

    path = tmp_path / "plain.glb"
    trimesh.creation.box().export(path)
    with pytest.raises(AssetError, match="no base colour texture"):
        load_glb(path, 64)


@pytest.mark.parametrize(
    ("center", "yaw", "z", "expected"),
    [((0.9, 0), 0.0, (0, 1), True), ((1.1, 0), 0.0, (0, 1), False), ((1.1, 0), np.pi / 4, (0, 1), True),
     ((0.0, 0), 0.0, (1, 2), False)],
)  # fmt: skip
def test_footprints(center, yaw, z, expected):
    first = Footprint(np.zeros(2), np.full(2, 0.5), 0.0, (0, 1))
    second = Footprint(np.array(center), np.full(2, 0.5), yaw, z)
    assert first.overlaps(second) is expected and second.overlaps(first) is expected
