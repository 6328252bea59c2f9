"""Views beside a generated scene: what is written comes back, and the labelled surface is where the pixels are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("embreex")
pytest.importorskip("trimesh")

from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_core.io.folders import open_numbered_folder
from chorus_core.stamps import nanoseconds
from training.scenes import generate
from training.scenes.assets import AssetLibrary, Split
from training.scenes.label import LabelView
from training.scenes.views import SURFACE, labelled_surface, load_instances, load_surface, save_views

INTRINSICS = CameraIntrinsics(60.0, 58.0, 31.5, 22.0, 64, 48)


def pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = q * np.sign(np.linalg.det(q)), rng.uniform(-2, 2, 3)
    return found


def make(count: int) -> tuple[list[RgbdFrame], list[LabelView]]:
    """Frames whose sensor errs, and the truth; some pixels have no depth, some no instance."""
    rng = np.random.default_rng(0)
    frames, truth = [], []
    for k in range(count):
        depth = rng.uniform(0.5, 4.0, (48, 64)).astype(np.float32)
        depth[rng.random((48, 64)) < 0.1] = 0
        instance = rng.integers(-1, 300, (48, 64)).astype(np.int32)
        smooth = np.indices((48, 64)).sum(0)[..., None] + np.array([0, 40, 80])
        truth.append(LabelView(depth, instance, INTRINSICS, pose(k)))
        noisy = np.where(depth > 0, depth + 0.01, 0).astype(np.float32)
        moved = pose(k)
        moved[:3, 3] += 0.02
        frames.append(RgbdFrame(smooth.astype(np.uint8), noisy, INTRINSICS, moved, nanoseconds(0.2 * k)))
    return frames, truth


def test_views_come_back(tmp_path: Path) -> None:
    frames, truth = make(12)  # more than ten, so that numbers and names sort apart
    save_views(tmp_path / "room", frames, truth)
    sequence = open_numbered_folder(tmp_path / "room")
    assert len(sequence) == 12
    for k, frame in enumerate(frames):
        found = sequence[k]
        assert found.intrinsics == INTRINSICS
        np.testing.assert_allclose(found.depth, frame.depth, atol=5.1e-4)
        np.testing.assert_array_equal(found.depth == 0, frame.depth == 0)
        np.testing.assert_allclose(found.world_from_camera, frame.world_from_camera, atol=1e-6)
        assert np.abs(found.color.astype(int) - frame.color).mean() < 4, "JPEG"
    for found, view in zip(load_instances(tmp_path / "room"), truth, strict=True):
        np.testing.assert_array_equal(found, view.instance)
    points, instance = load_surface(tmp_path / "room")
    expected, labels = labelled_surface(truth)
    np.testing.assert_allclose(points, expected, atol=5.1e-4)
    np.testing.assert_array_equal(instance, labels)
    assert points.dtype == np.float32
    assert instance.dtype == np.int64


def test_the_surface_against_brute_force() -> None:
    """Every labelled pixel of every second row and column, one a cell of 2 cm, each with a label found there."""
    _, truth = make(3)
    cells: dict[tuple[int, ...], list[tuple[np.ndarray, int]]] = {}
    for view in truth:
        for v in range(0, 48, 2):
            for u in range(0, 64, 2):
                z = float(view.depth[v, u])
                if z == 0 or view.instance[v, u] < 0:
                    continue
                camera = z * np.linalg.inv(INTRINSICS.matrix) @ np.array([u, v, 1.0])
                world = (view.world_from_camera @ np.append(camera, 1.0))[:3]
                cell = tuple(np.floor(world.astype(np.float32) / np.float32(0.02)).astype(int))
                cells.setdefault(cell, []).append((world, int(view.instance[v, u])))
    points, instance = labelled_surface(truth)
    assert len(points) == pytest.approx(len(cells), abs=3), "points on a border may round either way"
    found = 0
    for point, label in zip(points, instance, strict=True):
        candidates = cells.get(tuple(np.floor(point / np.float32(0.02)).astype(int)), [])
        found += any(np.abs(world - point).max() < 1e-4 and label == k for world, k in candidates)
    assert found >= len(points) - 3
    assert len(np.unique(np.floor(points / np.float32(0.02)), axis=0)) == len(points)


def test_nothing_labelled_is_an_empty_surface(tmp_path: Path) -> None:
    frames, truth = make(1)
    truth[0].instance[:] = -1
    save_views(tmp_path / "room", frames, truth)
    points, instance = load_surface(tmp_path / "room")
    assert points.shape == (0, 3)
    assert instance.shape == (0,)


def test_generated_rooms_keep_their_views(shared: Path, tmp_path: Path) -> None:
    """``--keep-views`` with the real assets: folder, surface and lists of what is held back."""
    assets = shared / "assets"
    if not assets.is_dir():
        pytest.skip(f"no asset folder at {assets}")
    library = AssetLibrary(assets, texture_size=64)
    split = Split.make(library)
    config = generate.GenerateConfig(
        assets, tmp_path, "val", seed=1, voxel_size=(0.06, 0.07), views=(4, 4), keep_views=True
    )
    generate.write_split(tmp_path, library, split)
    path = generate.generate_scene(config, library, split, 0)
    sequence = open_numbered_folder(path)
    assert len(sequence) == len(load_instances(path)) == 4
    assert (path / SURFACE).is_file()
    instances = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["instances"]
    points, instance = load_surface(path)
    assert instance.max() < len(instances)
    floor = np.isin(instance, [k for k, i in enumerate(instances) if i["category"] == "floor"])
    assert np.abs(points[floor, 2]).max() < 0.01, "the surface is free of noise"
    trained = json.loads((tmp_path / "trained_categories.json").read_text(encoding="utf-8"))
    held_back = json.loads((tmp_path / "held_back_objects.json").read_text(encoding="utf-8"))
    assert set(trained) == set(split.trained_categories(library))
    assert {"wall", "floor"} <= set(trained)
    assert not set(held_back) & split.allowed("train")
    assert set(held_back) | split.allowed("train") == set(library.objects)
