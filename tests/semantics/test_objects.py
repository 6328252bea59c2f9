from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_core.semantics.objects import extract_objects, objects_by_label, oriented_box
from chorus_core.semantics.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("Wall", "chair", "mug"))


def cuboid(size: tuple[float, float, float], yaw: float, center: tuple[float, float, float]) -> np.ndarray:
    """Points on the surface of an upright cuboid, its corners among them."""
    axes = [np.linspace(-0.5, 0.5, 15)] * 3
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 3)
    surface = grid[(np.abs(grid) == 0.5).any(1)] * size
    return Rotation.from_euler("z", yaw).apply(surface) + center


def blob(center: tuple[float, float, float], count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.05, 0.05, (count, 3)) + center


@settings(deadline=None)
@given(
    length=st.floats(0.5, 3.0),
    ratio=st.floats(0.2, 0.9),
    height=st.floats(0.1, 2.0),
    yaw=st.floats(-np.pi, np.pi),
    x=st.floats(-500, 500),
)
def test_box_of_a_turned_cuboid(length: float, ratio: float, height: float, yaw: float, x: float) -> None:
    size, center = (length, length * ratio, height), (x, 2.0, -1.0)
    found_center, found_size, quat = oriented_box(cuboid(size, yaw, center))
    np.testing.assert_allclose(found_center, center, atol=2e-3)
    np.testing.assert_allclose(found_size, size, atol=4e-3)
    rotation = Rotation.from_quat(np.roll(quat, -1))
    axis = Rotation.from_euler("z", yaw).apply([1.0, 0, 0])
    assert abs(rotation.apply([1.0, 0, 0]) @ axis) > 1 - 1e-4  # a box is the same when turned by half
    assert quat[1] == quat[2] == 0.0
    assert -np.pi / 2 <= 2 * np.arctan2(quat[3], quat[0]) <= np.pi / 2 + 1e-9


def test_stray_heights_do_not_stretch_the_box() -> None:
    points = cuboid((1.0, 0.5, 0.8), 0.3, (0, 0, 0.4))
    stray = np.array([[0.0, 0, 7.0], [0.0, 0, -5.0]])
    _, size, _ = oriented_box(np.concatenate([points, stray]))
    assert size[2] == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("points", [[[1.0, 2, 3]], [[0.0, 0, 0], [1, 1, 0]], [[0.0, 0, 0]] * 5])
def test_flat_things_have_boxes(points: list[list[float]]) -> None:
    center, size, quat = oriented_box(np.array(points))
    np.testing.assert_allclose(center, np.mean(points, 0), atol=1e-6)
    assert (size >= 0.01 - 1e-9).all()
    assert np.linalg.norm(quat) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("points", "reason"), [(np.zeros((0, 3)), "empty"), (np.zeros(3), "shape"), (np.full((2, 3), np.inf), "finite")]
)
def test_points_without_a_box(points: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        oriented_box(points)


def test_objects_of_a_query_come_best_first() -> None:
    points = np.concatenate([blob((0, 0, 0), 40), blob((2, 0, 0), 30), blob((4, 0, 0), 5)])
    scores = np.repeat([0.6, 0.9, 1.0], [40, 30, 5])
    places = np.arange(75)[::-1] + 1000
    found = extract_objects(points, scores, "a mug", gap=0.1, min_count=10, indices=places)
    assert [(item.label, item.count) for item in found] == [("a mug", 30), ("a mug", 40)]
    assert [item.score for item in found] == pytest.approx([0.9, 0.6])
    np.testing.assert_allclose(found[0].centroid, points[40:70].mean(0))
    np.testing.assert_array_equal(found[0].indices, np.sort(places[40:70]))
    assert len(extract_objects(points, scores, "a mug", gap=0.1, min_count=10, max_objects=1)) == 1


def test_no_match_no_objects() -> None:
    assert extract_objects(np.zeros((0, 3)), np.zeros(0), "elephant", gap=0.1, min_count=1) == []
    found, instances = objects_by_label(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0), VOCABULARY, gap=1, min_count=1)
    assert found == []
    assert instances.shape == (0,)


def test_objects_of_a_labelled_map() -> None:
    points = np.concatenate(
        [blob((0, 0, 0), 60), blob((1, 0, 0), 30), blob((1.09, 0, 0), 25), blob((3, 0, 0), 20), blob((5, 0, 0), 20)]
    )
    labels = np.repeat(np.array([0, 1, 2, 2, 65535], dtype=np.uint16), [60, 30, 25, 20, 20])
    shuffle = np.random.default_rng(0).permutation(len(points))
    points, labels = points[shuffle], labels[shuffle]
    found, instances = objects_by_label(points, labels, np.full(len(points), 0.7), VOCABULARY, gap=0.1, min_count=5)
    assert [(item.label, item.count) for item in found] == [("chair", 30), ("mug", 25), ("mug", 20)]
    for i, item in enumerate(found):
        np.testing.assert_array_equal(np.flatnonzero(instances == i), item.indices)
        assert (labels[item.indices] == VOCABULARY.labels.index(item.label)).all()
        assert item.score == pytest.approx(0.7)
    assert ((instances == -1) == np.isin(labels, (0, 65535))).all()
    with_walls, _ = objects_by_label(
        points, labels, np.full(len(points), 0.7), VOCABULARY, gap=0.1, min_count=5, exclude=frozenset({"MUG"})
    )
    assert [item.label for item in with_walls] == ["Wall", "chair"]


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(ValueError, match="scores"):
        extract_objects(np.zeros((3, 3)), np.zeros(2), "mug", gap=0.1, min_count=1)
    with pytest.raises(ValueError, match="indices"):
        extract_objects(np.zeros((3, 3)), np.zeros(3), "mug", gap=0.1, min_count=1, indices=np.zeros(2))
    with pytest.raises(ValueError, match="labels"):
        objects_by_label(np.zeros((3, 3)), np.zeros(2, int), np.zeros(3), VOCABULARY, gap=0.1, min_count=1)
    with pytest.raises(ValueError, match="confidence"):
        objects_by_label(np.zeros((3, 3)), np.zeros(3, int), np.zeros(2), VOCABULARY, gap=0.1, min_count=1)
