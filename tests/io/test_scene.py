"""From rows to scenes: coordinates of surveys keep their digits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import load_any_scene
from chorus_core.io.gaussian_ply import PlyFormatError, load_gaussians, load_origin, save_gaussians
from chorus_core.io.point_cloud import PointCloudError, load_point_cloud
from chorus_core.io.scene import near_origin
from chorus_core.io.scene_folder import SceneFolderError, load_scene, save_scene

COUNT = 30
UTM = np.array((500000.123, 5500000.456, 117.0))
EARTH_CENTRED = np.array((4146000.5, 613000.25, -4791000.75))


def small() -> Gaussians:
    rng = torch.Generator().manual_seed(0)
    quats = torch.nn.functional.normalize(torch.randn(COUNT, 4, generator=rng), dim=1)
    values = torch.rand(COUNT, 3, generator=rng)
    return Gaussians(2 * values, quats, 0.01 + 0.1 * values, values[:, 0], values)


def write(path: Path, positions: np.ndarray, dtype: str = "f8") -> Path:
    """The small scene with other positions, in the form that the path's name asks for."""
    gaussians = small()
    if path.name.startswith("points.ply"):
        columns = [(name, dtype) for name in "xyz"] + [(name, "u1") for name in ("red", "green", "blue")]
        rows = np.zeros(COUNT, columns)
        for axis, name in enumerate("xyz"):
            rows[name] = positions[:, axis]
        PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))
    elif path.suffix == ".npz":
        np.savez(path, points=positions.astype(dtype), colors=gaussians.colors.numpy())
    elif path.suffix == ".ply":
        save_gaussians(path, gaussians)
        vertex = PlyData.read(str(path), mmap=False)["vertex"].data
        wide = np.empty(COUNT, [(n, dtype if n in "xyz" else "f4") for n in vertex.dtype.names])
        for name in vertex.dtype.names:
            wide[name] = positions[:, "xyz".index(name)] if name in "xyz" else vertex[name]
        PlyData([PlyElement.describe(wide, "vertex")]).write(str(path))
    else:
        save_scene(path, gaussians)
        np.save(path / "coord.npy", positions.astype(dtype))
    return path


@pytest.mark.parametrize("offset", [UTM, EARTH_CENTRED], ids=["utm", "earth-centred"])
@pytest.mark.parametrize("name", ["a.ply", "points.ply", "a.npz", "folder"])
def test_large_coordinates_keep_their_digits(name: str, offset: np.ndarray, tmp_path: Path) -> None:
    positions = small().means.double().numpy() + offset
    scene = load_any_scene(write(tmp_path / name, positions))
    assert scene.positions.dtype == torch.float32
    assert np.abs(scene.positions.double().numpy() + scene.origin - positions).max() < 5e-4
    assert np.array_equal(scene.origin, np.floor(scene.origin)), "whole metres: voxels stay where they were"
    far = np.abs(offset) > 8192
    assert (scene.positions.numpy()[:, far] < 4).all()
    assert not scene.origin[~far].any(), "axes that lose nothing are left as they are"


@pytest.mark.parametrize(
    ("name", "load", "error"),
    [
        ("a.ply", load_gaussians, PlyFormatError),
        ("a.npz", load_point_cloud, PointCloudError),
        ("folder", load_scene, SceneFolderError),
    ],
)
def test_readers_without_an_origin_refuse(name: str, load, error: type[Exception], tmp_path: Path) -> None:
    path = write(tmp_path / name, small().means.double().numpy() + UTM)
    with pytest.raises(error, match="around 500000 5500000 0 m, which float32 does not hold to a millimetre"):
        load(path)


def test_what_the_file_itself_has_lost_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    positions = (small().means.double().numpy() + UTM).astype(np.float32)
    path = write(tmp_path / "a.ply", positions, "f4")
    with caplog.at_level(logging.WARNING):
        scene = load_any_scene(path)
    assert np.array_equal(scene.positions.double().numpy() + scene.origin, positions.astype(np.float64))
    assert "coordinates in steps of 0.5 m only" in caplog.text
    assert np.array_equal(load_gaussians(path).means.numpy(), positions), "nothing more is lost"


def test_an_origin_is_kept_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    origin = np.array((500000.0, 5500000.25, -1 / 3))
    save_gaussians(path, small(), origin=origin)
    assert np.array_equal(load_origin(path), origin)
    scene = load_any_scene(path)
    assert np.array_equal(scene.origin, origin)
    assert torch.equal(scene.positions, small().means)
    assert torch.equal(load_gaussians(path).means, small().means)
    save_gaussians(path, small())
    assert b"comment" not in path.read_bytes()
    assert not load_any_scene(path).origin.any()


def test_both_origins_add_up(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "a.ply", small(), origin=(10.0, 0.0, 0.0))
    ply = PlyData.read(str(tmp_path / "a.ply"), mmap=False)
    ply["vertex"].data["x"] += np.float32(16384.0)
    ply.write(str(tmp_path / "b.ply"))
    assert load_any_scene(tmp_path / "b.ply").origin.tolist() == [16394.0, 0.0, 0.0]


def test_a_far_row_neither_makes_nor_moves_an_origin() -> None:
    positions = np.random.default_rng(0).uniform(0, 3, (100, 3))
    positions[5] = 1e7
    assert not near_origin(positions)[1].any()
    positions += 1e6
    positions[6] = -1e12
    assert near_origin(positions)[1].tolist() == [1e6] * 3
    assert near_origin(positions[:0])[1].tolist() == [0] * 3


def test_the_bulk_of_an_even_number_of_far_rows_is_not_empty():
    near, origin = near_origin(np.array([[-1e6, 0, 0], [3e6, 0, 0]]))
    assert origin[0] in (-1e6, 3e6) and np.abs(near + origin - [[-1e6, 0, 0], [3e6, 0, 0]]).max() == 0
