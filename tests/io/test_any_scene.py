"""Scenes of any form, and coloured points among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import load_any_scene
from chorus_core.io.gaussian_ply import PlyFormatError, save_gaussians
from chorus_core.io.point_cloud import PointCloud, PointCloudError, load_point_cloud
from chorus_core.io.scene_folder import save_scene
from chorus_core.io.splat_file import RECORD

COUNT = 20


@pytest.fixture
def gaussians() -> Gaussians:
    rng = torch.Generator().manual_seed(0)
    quats = torch.nn.functional.normalize(torch.randn(COUNT, 4, generator=rng), dim=1)
    values = torch.rand(COUNT, 3, generator=rng)
    return Gaussians(torch.randn(COUNT, 3, generator=rng), quats, values * 0.1 + 0.01, values[:, 0], values)


def write_points(path: Path, points: np.ndarray, colors: np.ndarray) -> None:
    columns = [(n, "f4") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")]
    rows = np.zeros(len(points), columns)
    for index, name in enumerate("xyz"):
        rows[name] = points[:, index]
    for index, name in enumerate(("red", "green", "blue")):
        rows[name] = colors[:, index]
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def test_each_form_is_told_by_what_it_is(gaussians: Gaussians, tmp_path: Path) -> None:
    save_gaussians(tmp_path / "a.ply", gaussians)
    save_scene(tmp_path / "folder", gaussians)
    records = np.zeros(COUNT, RECORD)
    records["mean"], records["scale"], records["rotation"] = gaussians.means, gaussians.scales, (255, 128, 128, 128)
    (tmp_path / "a.SPLAT").write_bytes(records.tobytes())
    for name in ("a.ply", "folder", "a.SPLAT"):
        scene = load_any_scene(tmp_path / name)
        assert isinstance(scene, Gaussians)
        assert torch.equal(scene.means, gaussians.means), "rows keep their order"
    points, colors = gaussians.means.numpy(), (gaussians.colors.numpy() * 255).astype(np.uint8)
    write_points(tmp_path / "points.ply", points, colors)
    np.savez(tmp_path / "points.npz", points=points, colors=colors)
    for name in ("points.ply", "points.npz"):
        scene = load_any_scene(tmp_path / name)
        assert isinstance(scene, PointCloud)
        assert len(scene) == COUNT
        assert np.array_equal(scene.points.numpy(), points)
        assert np.allclose(scene.colors.numpy() * 255, colors, atol=1e-4)
        assert scene.normals is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scene\.obj"):
        load_any_scene(tmp_path / "scene.obj")
    (tmp_path / "scene.obj").write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match=r"scene\.obj: expected \.ply .*\.splat, \.npz"):
        load_any_scene(tmp_path / "scene.obj")
    rows = np.zeros(2, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("opacity", "f4"), ("scale_0", "f4")])
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(tmp_path / "half.ply"))
    with pytest.raises(PlyFormatError, match="not a 3DGS file: vertex has no property f_dc_0"):
        load_any_scene(tmp_path / "half.ply")


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
        ({"points": np.full((2, 3), np.inf), "colors": np.zeros((2, 3))}, "expected finite numbers"),
        (
            {"points": np.zeros((2, 3)), "colors": np.full((2, 3), 255.0)},
            r"expected uint8, or floating ones in \[0, 1\]",
        ),
        ({"points": np.zeros((2, 3)), "colors": np.zeros((2, 3), np.int64)}, "colors are int64"),
        (
            {"points": np.zeros((2, 3)), "colors": np.zeros((2, 3)), "normals": np.zeros((2, 3))},
            "normals are zero or not finite in places",
        ),
    ],
)
def test_bad_arrays_are_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(PointCloudError, match=message):
        load_point_cloud(tmp_path / "p.npz")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.npz").write_bytes(b"not a zip")
    with pytest.raises(PointCloudError, match=r"p\.npz: not a readable \.npz"):
        load_point_cloud(tmp_path / "p.npz")
