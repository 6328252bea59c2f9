"""The command line, as a user calls it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from chorus_core.__main__ import main
from chorus_core.command_line import read_config
from chorus_core.config import ConfigError
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.outliers import inliers
from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import load_any_scene
from chorus_core.io.feature_file import load_features
from chorus_core.io.gaussian_ply import save_gaussians
from chorus_core.io.map_file import features_path
from chorus_core.io.rgbd import open_sequence

ROS_FILE = Path(__file__).resolve().parents[1] / "config" / "perception.yaml"
FAST = ["--set", "map.voxel_size=0.1", "--set", "encoder.min_gaussians=100", "--set", "semantics.object_gap=0.25"]


@pytest.fixture(scope="module")
def recording(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short recording in the 7-Scenes layout, cut from the shipped one."""
    folder = tmp_path_factory.mktemp("recording")
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir()
    sequence = open_sequence(repository / "data" / "house_drive" / "bag")
    for i in range(8):
        frame = sequence[i]
        cv2.imwrite(str(folder / f"color/{i:06d}.jpg"), frame.color[..., ::-1])
        cv2.imwrite(str(folder / f"depth/{i:06d}.png"), (frame.depth * 1000).astype(np.uint16))
        np.savetxt(folder / f"pose/{i:06d}.txt", frame.world_from_camera)
    k = frame.intrinsics
    (folder / "intrinsics.json").write_text(
        f'{{"width": {k.width}, "height": {k.height}, "fx": {k.fx}, "fy": {k.fy}, "cx": {k.cx}, "cy": {k.cy},'
        ' "depth_scale": 1000.0}'
    )
    return folder


def test_map_query_encode_info(recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "map.ply"
    assert main(["map", str(recording), "--out", str(target), *FAST]) == 0
    assert "from 8 frames" in capsys.readouterr().out
    assert main(["query", str(target), "floor", "elephant", *FAST]) == 0
    answer = capsys.readouterr().out
    assert '"elephant": 0 found' in answer
    assert '"floor": 0 found' not in answer
    copy = tmp_path / "again.ply"
    assert main(["encode", str(target), "--out", str(copy), "--grid", "0.1", *FAST]) == 0
    assert re.fullmatch(r"again\.[0-9a-f]{8}\.features\.npz", features_path(copy).name)
    assert features_path(copy).is_file()
    for path in (target, recording):
        assert main(["info", str(path)]) == 0
    assert "Gaussians" in capsys.readouterr().out


def small_scene(count: int = 300) -> Gaussians:
    points = torch.rand((count, 3), generator=torch.Generator().manual_seed(0))
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
    return Gaussians(points, quats, torch.full((count, 3), 0.02), torch.full((count,), 0.9), points)


def test_features_of_any_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = small_scene()
    scene.scales[7] = 5.0
    save_gaussians(tmp_path / "scene.ply", scene)
    expected = ChorusEncoder.from_pretrained("chorus_mini").encode(scene)
    out = tmp_path / "new" / "f.safetensors"
    assert main(["encode", str(tmp_path / "scene.ply"), "-o", str(out)]) == 0
    features, kept, facts = load_features(out)
    assert kept.all()
    assert torch.allclose(features.float(), expected.float(), atol=2e-3), "rows in the order of the file"
    assert (facts["model"], facts["head"], facts["grid_size"]) == ("chorus_mini", "lang", 0.04)
    several = ["--grid", "0.3", "--head", "none", "--drop-outliers", "--set", "encoder.per_voxel=fragments"]
    assert main(["encode", str(tmp_path / "scene.ply"), "-o", str(out), *several]) == 0
    features, kept, facts = load_features(out)
    assert torch.equal(kept, inliers(scene))
    assert not kept[7]
    left_out = int((~kept).sum())
    assert (
        f"{300 - left_out} Gaussians encoded, {left_out} left out ({left_out} blown up or alone"
        in capsys.readouterr().out
    )
    assert not features[~kept].any()
    assert features[kept].any(dim=1).all()
    assert features.shape == (300, 672)
    assert facts["per_voxel"] == "fragments"


def test_points_are_encoded_by_a_point_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = small_scene()
    cloud = tmp_path / "cloud.npz"
    np.savez(cloud, points=scene.means.numpy(), colors=scene.colors.numpy())
    points = ["--set", "encoder.checkpoint=chorus_mini_pts"]
    assert main(["encode", str(cloud), *points]) == 0
    features, kept, facts = load_features(tmp_path / "cloud.features.safetensors")
    assert (features.shape, bool(kept.all()), facts["model"]) == ((300, 384), True, "chorus_mini_pts")
    assert main(["info", str(cloud)]) == 0
    assert "estimated when encoded" in capsys.readouterr().out
    for wrong, message in (
        (["encode", str(cloud)], "the model reads Gaussians|channels"),
        (["encode", str(cloud), "-o", str(tmp_path / "map.ply"), *points], "holds points"),
        (["encode", str(cloud), "-o", str(tmp_path / "map.txt"), *points], "expected NAME.ply"),
        *(
            (["encode", str(cloud), "--grid", size, *points], "--grid .*: expected metres above 0")
            for size in ("0", "nan")
        ),
        (["encode", str(cloud), "--head", "dino", *points], "--head dino: the model has gen, lang, obj, or none"),
    ):
        assert main(wrong) == 2
        assert re.search(message, capsys.readouterr().err)


def test_bad_and_far_rows_do_not_ruin_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = small_scene()
    save_gaussians(tmp_path / "good.ply", scene[1:])
    scene.means[0] = torch.tensor((1e4, 0.0, 0.0))
    save_gaussians(tmp_path / "scene.ply", scene)
    out = tmp_path / "f.safetensors"
    assert main(["encode", str(tmp_path / "good.ply"), "-o", str(out)]) == 0
    expected = load_features(out)[0]
    assert main(["encode", str(tmp_path / "scene.ply"), "-o", str(out)]) == 0
    assert "299 Gaussians encoded, 1 left out (1 beyond the grid's 2616 m)" in capsys.readouterr().out
    features, kept, facts = load_features(out)
    assert kept.tolist() == [False] + [True] * 299
    assert torch.equal(features[1:], expected)
    assert facts["left_out"] == {"beyond the grid's 2616 m": 1}
    data = (tmp_path / "scene.ply").read_bytes()
    start = data.index(b"end_header\n") + 11
    (tmp_path / "scene.ply").write_bytes(data[:start] + np.float32(np.nan).tobytes() + data[start + 4 :])
    for arguments, code in (([], 2), (["--drop-bad"], 0), (["--drop-outliers"], 0)):
        assert main(["encode", str(tmp_path / "scene.ply"), "-o", str(out), *arguments]) == code
        printed = capsys.readouterr()
        if code:
            assert printed.err.count("\n") == 1
            assert "1 of 300 rows are no Gaussians" in printed.err and "--drop-bad" in printed.err
        else:
            assert "left out (1 with a position that is not finite" in printed.out
            assert not load_features(out)[1][0]
        if arguments == ["--drop-bad"]:
            assert torch.equal(load_features(out)[0][1:], expected)
    assert main(["info", str(tmp_path / "scene.ply")]) == 0
    assert "1 with a position that is not finite" in capsys.readouterr().out


def test_points_with_normals_of_zero(tmp_path: Path) -> None:
    """As 3DGS writes them; they are estimated, as where there are none."""
    scene = small_scene()
    points = ["--set", "encoder.checkpoint=chorus_mini_pts"]
    arrays = {"points": scene.means.numpy(), "colors": scene.colors.numpy()}
    found = []
    for name, normals in (("none", {}), ("zero", {"normals": np.zeros((300, 3))})):
        np.savez(tmp_path / f"{name}.npz", **arrays, **normals)
        assert main(["encode", str(tmp_path / f"{name}.npz"), *points]) == 0
        found.append(load_features(tmp_path / f"{name}.features.safetensors")[0])
    assert torch.equal(*found)


def test_a_scene_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gaussians(tmp_path / "scene.ply", Gaussians.empty())
    assert main(["info", str(tmp_path / "scene.ply")]) == 0
    assert re.search(r"Gaussians\W+0\W", capsys.readouterr().out)
    assert main(["encode", str(tmp_path / "scene.ply")]) == 2
    error = capsys.readouterr().err
    assert "scene.ply: nothing to encode in 0 rows" in error
    assert error.count("\n") == 1


def test_a_survey_keeps_its_coordinates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """UTM in double: the same features as near the origin, and answers in UTM again."""
    scene, corner = small_scene(), np.array((500000.0, 5500000.0, 0.0))
    save_gaussians(tmp_path / "near.ply", scene)
    vertex = PlyData.read(str(tmp_path / "near.ply"), mmap=False)["vertex"].data
    wide = vertex.astype([(name, "f8" if name in "xyz" else "f4") for name in vertex.dtype.names])
    for axis, name in enumerate("xyz"):
        wide[name] += corner[axis]
    PlyData([PlyElement.describe(wide, "vertex")]).write(str(tmp_path / "utm.ply"))
    found = []
    for name in ("near", "utm"):
        assert main(["encode", str(tmp_path / f"{name}.ply"), "-o", str(tmp_path / f"{name}.safetensors")]) == 0
        found.append(load_features(tmp_path / f"{name}.safetensors"))
    assert torch.allclose(found[0][0].float(), found[1][0].float(), atol=2e-3)
    assert found[1][2]["origin"] == corner.tolist()
    target = tmp_path / "again.ply"
    assert main(["encode", str(tmp_path / "utm.ply")]) == 0
    assert main(["encode", str(tmp_path / "utm.chorus.ply"), "-o", str(target)]) == 0
    assert load_any_scene(target).origin.tolist() == corner.tolist()
    capsys.readouterr()
    ask = ["--threshold", "0.001", "--set", "semantics.object_gap=0.5", "--set", "semantics.min_object_gaussians=5"]
    assert main(["query", str(target), "thing", *ask]) == 0
    assert re.search(r"\b50000[01]\.\d\d 550000[01]\.\d\d [01]\.\d\d\b", capsys.readouterr().out)
    assert main(["info", str(target)]) == 0
    assert "500000.000 5500000.000 0.000 m" in capsys.readouterr().out


def test_encode_leaves_the_scene_it_reads_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scene may have columns that a saved map does not: spherical harmonics, say."""
    scene = tmp_path / "scene.ply"
    save_gaussians(scene, small_scene(), {"my_id": np.arange(300, dtype=np.int32)})
    before = scene.read_bytes()
    assert main(["encode", str(scene)]) == 0
    assert main(["encode", str(scene), "--out", str(tmp_path / "." / "scene.ply")]) == 2
    assert "is the input" in capsys.readouterr().err
    assert scene.read_bytes() == before
    assert main(["query", str(tmp_path / "scene.chorus.ply"), "chair"]) == 0
    assert main(["query", str(scene), "chair"]) == 2
    assert "--out NEW.ply" in capsys.readouterr().err


def test_info_of_a_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "chorus_mini"]) == 0
    assert "parameters" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["map", "no_such_folder"], "no_such_folder"),
        (["query", "no_such.ply", "chair"], "no_such"),
        (["info", ".", "--set", "map.voxle_size=1"], "map.voxle_size"),
        (["info", ".", "--set", "map.voxel_size=-1"], "map.voxel_size"),
        (["info", ".", "--set", "nonsense"], "nonsense"),
        (["info", ".", "--set", "map.max_weight=1e300"], "map.max_weight = 1e+300: expected a value <= 1000000"),
        (["info", ".", "--config", str(ROS_FILE)], "is a ROS parameter file"),
    ],
)
def test_mistakes_end_in_one_clear_line(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_assignments_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("map:\n  voxel_size: 0.05\n  depth_max: 3.0\n")
    config = read_config(file, ["map.voxel_size=0.1"])
    assert (config.map.voxel_size, config.map.depth_max) == (0.1, 3.0)
    assert read_config(None, ["map.voxel_size=5e-2"]).map.voxel_size == 0.05
    with pytest.raises(ConfigError):
        read_config(file, ["map.depth_max=far"])


def test_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chorus_core", "--help"], capture_output=True, text=True, check=True, timeout=120
    )
    for command in ("map", "encode", "query", "info"):
        assert command in done.stdout
