"""Chunks: nothing lost, nothing too small, everything stays with its Gaussian; labels by the nearest point."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.gaussians import Gaussians
from training.chunks import chunks, label_gaussians, thin
from training.datasets.base import LabelledPoints
from training.prepared import InstanceInfo, LiftedFeatures, PreparedScene, SceneInfo

HEADS = ("dino", "lang")


def scene_of(means: np.ndarray, seed: int = 0) -> PreparedScene:
    """Every value of a Gaussian tells which one it is: its first colour is its number, its features are too."""
    rng = np.random.default_rng(seed)
    count = len(means)
    number = torch.arange(count, dtype=torch.float32)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    gaussians = Gaussians(
        torch.tensor(means, dtype=torch.float32).reshape(count, 3),
        quats,
        torch.full((count, 3), 0.01),
        torch.tensor(rng.uniform(size=count), dtype=torch.float32),
        torch.stack([number, number, number], dim=1),
    )
    features = {}
    for width, head in enumerate(HEADS, start=2):
        has = torch.from_numpy(rng.random(count) < 0.6)
        rows = torch.from_numpy(rng.permutation(int(has.sum())))
        index = torch.full((count,), -1, dtype=torch.int64)
        index[has] = rows
        table = torch.zeros(int(has.sum()), width, dtype=torch.float16)
        table[rows] = number[has].half()[:, None].expand(-1, width)
        features[head] = LiftedFeatures(table, index)
    info = SceneInfo("room", 0.02, ("a", "b"), (InstanceInfo("a"),), {}, {"seed": seed})
    normals = torch.nn.functional.normalize(torch.tensor(rng.normal(size=(count, 3)), dtype=torch.float32), dim=1)
    return PreparedScene(info, gaussians, normals, torch.arange(count), torch.arange(count) + 7, features)


def numbers(chunk: PreparedScene) -> list[int]:
    return chunk.gaussians.colors[:, 0].long().tolist()


def check_belongings(scene: PreparedScene, chunk: PreparedScene) -> None:
    rows = torch.tensor(numbers(chunk), dtype=torch.int64)
    assert torch.equal(chunk.gaussians.means, scene.gaussians.means[rows])
    assert torch.equal(chunk.normals, scene.normals[rows])
    assert torch.equal(chunk.segment, rows) and torch.equal(chunk.instance, rows + 7)
    assert set(chunk.features) == set(HEADS)
    for head, lifted in chunk.features.items():
        has = lifted.index >= 0
        assert torch.equal(has, scene.features[head].index[rows] >= 0)
        assert lifted.index.dtype == torch.int64 and lifted.table.dtype == torch.float16
        assert (lifted.table[lifted.index[has]].float() == rows[has][:, None]).all()
        assert sorted(lifted.index[has].tolist()) == list(range(len(lifted.table))), "a row for each, no more"


@st.composite
def clouds(draw) -> np.ndarray:
    """Clusters of points over some tens of metres; density varies, so that some windows are empty and some thin."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    extent = [draw(st.floats(0, 25)), draw(st.floats(0, 25)), draw(st.floats(0, 10))]
    centers = rng.uniform(-1, 1, size=(draw(st.integers(1, 6)), 3)) * extent
    sizes = rng.integers(1, 60, len(centers))
    spread = draw(st.floats(0, 3))
    return np.concatenate([c + spread * rng.normal(size=(n, 3)) for c, n in zip(centers, sizes, strict=True)])


@settings(max_examples=50, deadline=None)
@given(clouds(), st.sampled_from([(6.0, 6.0, math.inf), (6.0, 6.0, 4.0), (3.0, 5.0, 2.0)]), st.integers(1, 40))
def test_invariants(means, window, minimum):
    scene = scene_of(means)
    stride = tuple(extent if math.isinf(extent) else extent * 2 / 3 for extent in window)
    parts = list(chunks(scene, window, stride, minimum))
    if len(means) < minimum:
        assert parts == []
        return
    assert {n for part in parts for n in numbers(part)} == set(range(len(means))), "every Gaussian is in a chunk"
    for part in parts:
        assert len(part.gaussians) >= minimum
        assert numbers(part) == sorted(set(numbers(part)))
        check_belongings(scene, part)
    names = [part.info.name for part in parts]
    assert names == (["room"] if len(parts) == 1 else [f"room_{k:03d}" for k in range(len(parts))])


@settings(max_examples=60, deadline=None)
@given(clouds(), st.floats(2, 8), st.floats(0.3, 1.0))
def test_windows_are_no_larger_than_asked_for_where_none_is_too_small(means, window, ratio):
    for part in chunks(scene_of(means), window, window * ratio, minimum=1):
        extent = np.ptp(part.gaussians.means.numpy().astype(np.float64), axis=0)
        assert (extent[:2] <= window + 1e-4).all()


def test_windows_overlap_by_the_stride_at_least():
    line = np.zeros((2001, 3))
    line[:, 0] = np.linspace(0, 20, 2001)
    parts = [part.gaussians.means[:, 0] for part in chunks(scene_of(line), 6.0, 4.0, 100)]
    assert [(round(p.min().item(), 2), round(p.max().item(), 2)) for p in parts] == [
        (0, 6), (3.5, 9.5), (7, 13), (10.5, 16.5), (14, 20),
    ]  # fmt: skip


def test_a_scene_within_a_window_is_one_chunk():
    scene = scene_of(np.random.default_rng(0).uniform(0, 5.9, size=(200, 3)))
    (chunk,) = chunks(scene, minimum=200)
    assert chunk.info == scene.info and numbers(chunk) == list(range(200))


def test_a_thin_window_joins_its_neighbour():
    rng = np.random.default_rng(0)
    dense = rng.uniform(0, 6, size=(300, 3)) * (1, 1, 0.1)
    far = np.array([[15.0, 0, 0], [15.5, 1, 0]])
    parts = list(chunks(scene_of(np.concatenate([dense, far])), 6.0, 6.0, minimum=50))
    assert {300, 301} <= set(numbers(parts[-1])) and len(parts[-1].gaussians) >= 50


def test_a_thin_window_whose_gaussians_are_elsewhere_is_dropped():
    line = np.zeros((1000, 3))
    line[:, 0] = np.concatenate([np.linspace(0, 6, 900), np.linspace(6.01, 9, 100)])
    # 3 windows: [0, 6], [1.5, 7.5], [3, 9]
    assert len(list(chunks(scene_of(line), 6.0, 1.5, minimum=560))) == 2


def test_too_small_a_scene_is_reported(caplog):
    assert list(chunks(scene_of(np.zeros((99, 3))), minimum=100)) == []
    assert "room: 99 Gaussians, fewer than the minimum of 100" in caplog.text
    assert list(chunks(scene_of(np.zeros((0, 3))), minimum=1)) == []


def test_a_far_outlier_is_kept_without_a_window_for_every_metre():
    means = np.concatenate([np.random.default_rng(0).uniform(0, 5, size=(100, 3)), [[1e6, -1e6, 1e5]]])
    parts = list(chunks(scene_of(means), 6.0, 4.0, minimum=10))
    assert len(parts) <= 4 and {n for part in parts for n in numbers(part)} == set(range(101))


def test_features_of_nobody():
    scene = scene_of(np.random.default_rng(0).uniform(0, 3, size=(20, 3)))
    scene.features["lang"].index.fill_(-1)
    (chunk,) = chunks(scene, minimum=1)
    assert chunk.features["lang"].table.shape == (0, 3) and (chunk.features["lang"].index == -1).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 60), st.sampled_from([(), ("lang",), ("dino", "lang"), ("lang", "dino")]))
def test_thinning_against_a_loop(seed, count, heads):
    rng = np.random.default_rng(seed)
    scene = scene_of(rng.uniform(-0.05, 0.05, size=(count, 3)), seed)
    scene.gaussians.opacities = (scene.gaussians.opacities * 3).round() / 3  # ties
    kept = thin(scene, 0.05, heads)
    best: dict[tuple, tuple] = {}
    for n, mean in enumerate(scene.gaussians.means.double().tolist()):
        cell = tuple(math.floor(x / 0.05) for x in mean)
        lacks = [bool(scene.features[head].index[n] < 0) for head in heads]
        rank = (*lacks, -scene.gaussians.opacities[n].item(), n)
        best[cell] = min(best.get(cell, rank), rank)
    assert kept.tolist() == sorted(rank[-1] for rank in best.values())


def test_thinning_comes_before_cutting():
    rng = np.random.default_rng(1)
    scene = scene_of(rng.uniform(0, 9, size=(2000, 3)) * (1, 1, 0.02))
    kept = thin(scene, 0.5, HEADS).tolist()
    assert len(kept) < 400
    parts = list(chunks(scene, 6.0, 4.0, minimum=20, grid=0.5, heads=HEADS))
    assert {n for part in parts for n in numbers(part)} == set(kept)
    for part in parts:
        check_belongings(scene, part)
    with pytest.raises(KeyError, match="pe"):
        thin(scene, 0.5, ("pe",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4.0, "stride": 6.0}, "0 < stride <= window"),
        ({"stride": (4.0, 0.0, 4.0)}, "0 < stride <= window"),
        ({"minimum": 0}, "minimum = 0"),
        ({"grid": -1.0}, r"grid = -1\.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        list(chunks(scene_of(np.zeros((3, 3))), **options))


# --- labels ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 20), st.integers(0, 20), st.floats(0.01, 1))
def test_labels_against_all_pairs(seed, count, points, reach):
    rng = np.random.default_rng(seed)
    gaussians = scene_of(rng.uniform(0, 1, size=(count, 3))).gaussians
    where = rng.uniform(0, 1, size=(points, 3)).astype(np.float32)
    labelled = LabelledPoints(where, rng.integers(-1, 3, points), np.arange(points), ("a", "b", "c"))
    segment, instance = label_gaussians(gaussians, labelled, reach)
    assert segment.dtype == instance.dtype == torch.int64 and len(segment) == len(instance) == count
    for k, mean in enumerate(gaussians.means.double().numpy()):
        distances = np.linalg.norm(where.astype(np.float64) - mean, axis=1)
        near = int(distances.argmin()) if points else -1
        if points and abs(distances[near] - reach) < 1e-9:
            continue
        expected = near if points and distances[near] <= reach else -1
        assert instance[k] == expected
        assert segment[k] == (labelled.segment[expected] if expected >= 0 else -1)


def test_reach_is_inclusive():
    labelled = LabelledPoints(np.array([[0.5, 0, 0]], np.float32), np.array([2]), np.array([4]), ("a", "b", "c"))
    gaussians = scene_of(np.array([[0.0, 0, 0], [1.25, 0, 0]])).gaussians
    assert [values.tolist() for values in label_gaussians(gaussians, labelled, 0.5)] == [[2, -1], [4, -1]]
