"""Scenes of any form: each is told by what it is, and treated alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import is_scene, load_any_scene
from chorus_core.io.gaussian_ply import PlyFormatError, save_gaussians
from chorus_core.io.scene import PointCloud, SceneError
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
        scene = load_any_scene(tmp_path / name).content
        assert isinstance(scene, Gaussians)
        assert torch.equal(scene.means, gaussians.means), "rows keep their order"
    points, colors = gaussians.means.numpy(), (gaussians.colors.numpy() * 255).astype(np.uint8)
    write_points(tmp_path / "points.ply", points, colors)
    np.savez(tmp_path / "points.npz", points=points, colors=colors)
    for name in ("points.ply", "points.npz"):
        scene = load_any_scene(tmp_path / name).content
        assert isinstance(scene, PointCloud)
        assert len(scene) == COUNT
        assert np.array_equal(scene.points.numpy(), points)
        assert np.allclose(scene.colors.numpy() * 255, colors, atol=1e-4)
        assert scene.normals is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scene\.obj"):
        load_any_scene(tmp_path / "scene.obj")
    (tmp_path / "scene.obj").write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match=r"scene\.obj: \.obj is not read; a mesh"):
        load_any_scene(tmp_path / "scene.obj")
    for name, hint in (
        ("a.ksplat", "SuperSplat"),
        ("a.SOG", "SuperSplat"),
        ("a.las", "CloudCompare"),
        ("a.npy", "folder"),
    ):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(SceneError, match=f"{name}: .* is not read; .*{hint}"):
            load_any_scene(tmp_path / name)
        assert is_scene(tmp_path / name)
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(SceneError, match=r"a\.txt: expected \.ply .*\.splat, \.spz, \.npz"):
        load_any_scene(tmp_path / "a.txt")
    assert not is_scene(tmp_path / "a.txt")
    rows = np.zeros(2, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("opacity", "f4"), ("scale_0", "f4")])
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(tmp_path / "half.ply"))
    with pytest.raises(PlyFormatError, match="not a 3DGS file: vertex has no property f_dc_0"):
        load_any_scene(tmp_path / "half.ply")


def break_row(path: Path, gaussians: Gaussians) -> Path:
    """The same scene with a position in row 1 that is not finite, in the form that the path's name asks for."""
    broken = Gaussians(*(values.clone() for values in vars(gaussians).values()))
    match path.suffix:
        case ".ply":
            save_gaussians(path, broken)
            data = path.read_bytes()
            start, row = data.index(b"end_header\n") + 11, 17 * 4
            path.write_bytes(data[: start + row] + np.float32(np.nan).tobytes() + data[start + row + 4 :])
        case ".splat":
            records = np.zeros(COUNT, RECORD)
            records["mean"], records["rotation"] = broken.means, (255, 128, 128, 128)
            records["mean"][1, 2] = np.inf
            path.write_bytes(records.tobytes())
        case ".npz":
            points = broken.means.numpy()
            points[1, 0] = np.nan
            np.savez(path, points=points, colors=broken.colors.numpy())
        case _:
            save_scene(path, broken)
            coord = np.load(path / "coord.npy")
            coord[1] = np.nan
            np.save(path / "coord.npy", coord)
    return path


@pytest.mark.parametrize("name", ["a.ply", "a.splat", "a.npz", "folder"])
def test_bad_rows_are_refused_or_left_out_and_counted(name: str, gaussians: Gaussians, tmp_path: Path) -> None:
    path = break_row(tmp_path / name, gaussians)
    with pytest.raises(SceneError, match=rf"{name}: 1 of 20 rows are no .*1 with a position that .*--drop-bad"):
        load_any_scene(path)
    scene = load_any_scene(path, drop_bad=True)
    assert scene.faults == {"a position that is not finite": 1}
    assert scene.kept.nonzero().squeeze(1).tolist() == [0, *range(2, COUNT)]
    assert torch.equal(scene.positions, gaussians.means[scene.kept]), "the others keep their order"
    assert not scene.origin.any()


def test_a_row_with_several_faults_counts_once(gaussians: Gaussians, tmp_path: Path) -> None:
    records = np.zeros(3, RECORD)
    records["rotation"] = (255, 128, 128, 128)
    records["mean"][0, 0], records["rotation"][0] = np.nan, 128
    records["scale"][1] = -1.0
    (tmp_path / "a.splat").write_bytes(records.tobytes())
    scene = load_any_scene(tmp_path / "a.splat", drop_bad=True)
    assert scene.faults == {"a position that is not finite": 1, "a scale below 0": 1}
    assert scene.kept.tolist() == [False, False, True]


def test_scenes_of_nothing_are_empty(tmp_path: Path) -> None:
    save_gaussians(tmp_path / "a.ply", Gaussians.empty())
    (tmp_path / "a.splat").write_bytes(b"")
    save_scene(tmp_path / "folder", Gaussians.empty())
    np.savez(tmp_path / "a.npz", points=np.zeros((0, 3)), colors=np.zeros((0, 3)))
    write_points(tmp_path / "points.ply", np.zeros((0, 3)), np.zeros((0, 3)))
    for name in ("a.ply", "a.splat", "folder", "a.npz", "points.ply"):
        scene = load_any_scene(tmp_path / name)
        assert (len(scene.content), len(scene.kept), scene.faults) == (0, 0, {}), name
