"""Annotated meshes: groups, majorities and sampling, held to plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import write_mesh
from plyfile import PlyData, PlyElement

from training.datasets import DatasetError
from training.datasets.meshes import Mesh, assign_groups, read_mesh, sample_surface, vertex_majority

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], float)


@pytest.mark.parametrize("text", [False, True])
def test_read(tmp_path, text):
    columns = {"category_id": np.array([-1, 7], np.int32)}
    faces = np.array([[0, 1, 2], [2, 1, 0]])
    write_mesh(tmp_path / "a.ply", TRIANGLE, faces, {"label": np.array([1, 2, 40], np.uint16)}, columns, text)
    mesh = read_mesh(tmp_path / "a.ply")
    np.testing.assert_array_equal(mesh.vertices, TRIANGLE)
    np.testing.assert_array_equal(mesh.faces, faces)
    assert mesh.vertex_columns["label"].tolist() == [1, 2, 40] and "x" not in mesh.vertex_columns
    assert mesh.face_columns["category_id"].tolist() == [-1, 7]


def test_a_point_cloud_has_no_faces(tmp_path):
    vertex = np.zeros(2, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    assert read_mesh(tmp_path / "a.ply").faces.shape == (0, 3)
    write_mesh(tmp_path / "b.ply", TRIANGLE)
    assert read_mesh(tmp_path / "b.ply").faces.shape == (0, 3)


def test_broken(tmp_path):
    with pytest.raises(DatasetError, match=r"a\.ply"):
        read_mesh(tmp_path / "a.ply")
    write_mesh(tmp_path / "a.ply", TRIANGLE, np.array([[0, 1, 3]]))
    with pytest.raises(DatasetError, match="up to 3 of 3 vertices"):
        read_mesh(tmp_path / "a.ply")
    quad = np.array([([0, 1, 2, 0],)], dtype=[("vertex_indices", "i4", (4,))])
    vertex = np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4")])
    PlyData([PlyElement.describe(vertex, "vertex"), PlyElement.describe(quad, "face")]).write(str(tmp_path / "a.ply"))
    with pytest.raises(DatasetError, match=r"a\.ply.*triangles"):
        read_mesh(tmp_path / "a.ply")
    PlyData([PlyElement.describe(vertex[["x", "y"]].copy().astype([("x", "f4"), ("y", "f4")]), "vertex")]).write(
        str(tmp_path / "a.ply")
    )
    with pytest.raises(DatasetError, match="no vertex property 'z'"):
        read_mesh(tmp_path / "a.ply")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-1, 12), max_size=40),
    st.lists(st.lists(st.integers(-1, 14), max_size=6, unique=True), max_size=5),
)
def test_the_smallest_group_has_a_vertex(segments, groups):
    result = assign_groups(np.array(segments, np.int64), groups)
    sizes = [sum(s in group for s in segments) for group in groups]
    for segment, chosen in zip(segments, result, strict=True):
        claims = [g for g, group in enumerate(groups) if segment in group]
        if not claims:
            assert chosen == -1
        else:
            assert chosen in claims and sizes[chosen] == min(sizes[g] for g in claims)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 30), st.integers(3, 8))
def test_majority_of_faces(seed, faces, vertices):
    rng = np.random.default_rng(seed)
    corners, labels = rng.integers(0, vertices, (faces, 3)), rng.integers(0, 4, faces)
    result = vertex_majority(corners, labels, vertices)
    for vertex in range(vertices):
        counts = Counter(int(labels[f]) for f in range(faces) for c in corners[f] if c == vertex)
        best = min((label for label in counts if counts[label] == max(counts.values())), default=-1)
        assert result[vertex] == best


def test_samples_are_uniform_and_labelled_by_the_nearest_corner():
    mesh = Mesh(TRIANGLE.astype(np.float32), np.array([[0, 1, 2]]), {}, {})
    points, vertex = sample_surface(mesh, 0.01, np.random.default_rng(0))
    sampled, vertex = points[3:], vertex[3:]
    assert abs(len(sampled) - 5000) <= 1
    assert (sampled[:, 2] == 0).all() and (sampled[:, :2].sum(1) <= 1 + 1e-6).all() and sampled.min() >= 0
    np.testing.assert_allclose(sampled.mean(0), (1 / 3, 1 / 3, 0), atol=0.015)
    weights = np.stack([1 - sampled[:, 0] - sampled[:, 1], sampled[:, 0], sampled[:, 1]], axis=1)
    np.testing.assert_array_equal(vertex, weights.argmax(1))
