"""Coloured points as ``.ply`` and ``.npz``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from chorus_core.io.ply import PlyFormatError
from chorus_core.io.point_cloud import PointCloudError, load_point_cloud


@pytest.mark.parametrize("normals", [True, False])
@pytest.mark.parametrize("color_type", ["u1", "f4"])
def test_ply(tmp_path: Path, normals: bool, color_type: str) -> None:
    names = [("x", "f8"), ("y", "f8"), ("z", "f8"), *[(c, color_type) for c in ("red", "green", "blue")]]
    vertex = np.zeros(5, names + ([("nx", "f4"), ("ny", "f4"), ("nz", "f4")] if normals else []))
    vertex["x"], vertex["red"] = np.arange(5), 255 if color_type == "u1" else 1.0
    if normals:
        vertex["nz"] = 2.0
    faces = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "O")])
    elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(faces, "face")]
    PlyData(elements).write(str(tmp_path / "a.ply"))
    cloud = load_point_cloud(tmp_path / "a.ply")
    assert cloud.points.dtype == torch.float32
    assert cloud.points[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert cloud.colors[0].tolist() == [1, 0, 0]
    if normals:
        assert cloud.normals.tolist() == [[0, 0, 2]] * 5
    else:
        assert cloud.normals is None


def colored(count: int, **types: str) -> np.ndarray:
    names = ("x", "y", "z", "red", "green", "blue", "nx", "ny", "nz")
    return np.zeros(count, [(n, types.get(n, "u1" if n in ("red", "green", "blue") else "f4")) for n in names])


def test_zero_normals_count_as_unknown(tmp_path: Path) -> None:
    """As 3DGS's storePly writes them for every point, and others for some."""
    vertex = colored(4)
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    assert load_point_cloud(tmp_path / "a.ply").normals is None
    vertex["ny"], vertex["nx"][2] = (0.0, 3.0, np.nan, 1.0), np.inf
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    assert load_point_cloud(tmp_path / "a.ply").normals.tolist() == [[0, 0, 0], [0, 3, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"red": "missing"}, "no property red"),
        ({"red": 300}, "red, green, blue outside their range"),
        ({"y": np.nan}, "1 of 2 rows are no points .1 with a position that is not finite"),
    ],
)
def test_bad_columns_are_named(wrong: dict, message: str, tmp_path: Path) -> None:
    vertex = colored(2, red="i4")
    for name, value in wrong.items():
        if value == "missing":
            vertex = vertex[[n for n in vertex.dtype.names if n != name]].copy()
            vertex = np.array(vertex.tolist(), [(n, "f4") for n in vertex.dtype.names])
        else:
            vertex[name][0] = value
    PlyData([PlyElement.describe(vertex, "vertex")]).write(str(tmp_path / "a.ply"))
    with pytest.raises((PlyFormatError, PointCloudError), match=message):
        load_point_cloud(tmp_path / "a.ply")


def test_floating_colours_and_normals_come_as_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points, colors, normals = rng.normal(size=(5, 3)), rng.uniform(size=(5, 3)), rng.normal(size=(5, 3))
    np.savez(tmp_path / "p.npz", points=points, colors=colors, normals=normals)
    cloud = load_point_cloud(tmp_path / "p.npz")
    for tensor, given in ((cloud.points, points), (cloud.colors, colors), (cloud.normals, normals)):
        assert tensor.dtype == torch.float32
        assert np.allclose(tensor.numpy(), given, atol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"points": np.zeros((2, 3))}, "no array colors"),
        ({"points": np.zeros((2, 2)), "colors": np.zeros((2, 3))}, r"points is float64 \(2, 2\)"),
        (
            {"points": np.full((2, 3), np.inf), "colors": np.zeros((2, 3))},
            "2 of 2 rows are no points .2 with a position that is not finite",
        ),
        (
            {"points": np.zeros((2, 3)), "colors": np.full((2, 3), 255.0)},
            r"expected uint8, or floating ones in \[0, 1\]",
        ),
        ({"points": np.zeros((2, 3)), "colors": np.zeros((2, 3), np.int64)}, "colors are int64"),
    ],
)
def test_bad_arrays_are_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(PointCloudError, match=message):
        load_point_cloud(tmp_path / "p.npz")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(b"not a zip")
    with pytest.raises(PointCloudError, match=r"p\.npz: damaged or of another form"):
        load_point_cloud(tmp_path / "p.npz")
