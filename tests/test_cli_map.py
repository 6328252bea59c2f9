"""``chorus map`` on recordings that come to little or nothing, and where its files go."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from chorus_core import recorded_map
from chorus_core.__main__ import main
from chorus_core.gaussians import Gaussians
from chorus_core.io.gaussian_ply import save_gaussians
from chorus_core.io.map_file import features_path, load_map
from chorus_core.io.rgbd import RgbdSequence

SMALL = ["--set", "map.voxel_size=0.1"]


def record(folder: Path, metres: float, unit: float = 1000.0, frames: int = 3) -> Path:
    """A wall of that depth, seen again and again."""
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for i in range(frames):
        cv2.imwrite(str(folder / f"color/{i:06d}.png"), noise.integers(0, 255, (24, 32, 3), np.uint8))
        slope = np.linspace(metres, 1.5 * metres, 32) * unit
        cv2.imwrite(str(folder / f"depth/{i:06d}.png"), np.tile(slope, (24, 1)).astype(np.uint16))
        np.savetxt(folder / f"pose/{i:06d}.txt", np.eye(4))
    (folder / "intrinsics.json").write_text(
        f'{{"width": 32, "height": 24, "fx": 30, "fy": 30, "cx": 16, "cy": 12, "depth_scale": {unit}}}'
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refused command ends in."""
    capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    line = next(line for line in error.splitlines() if line.startswith("chorus "))
    assert "Traceback" not in error
    return line


def test_a_small_map_is_encoded_whatever_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "map.ply"
    assert main(["map", str(record(tmp_path / "wall", 1.0)), "--out", str(out), *SMALL]) == 0
    labelled, _ = load_map(out)
    assert 0 < len(labelled) < 500
    assert (labelled.features.float().norm(dim=1) > 0).all()
    assert f"{len(labelled)} Gaussians from" in capsys.readouterr().out
    assert main(["query", str(out), "wall"]) == 0
    assert main(["map", str(tmp_path / "wall"), "--out", str(out), "--bare", *SMALL]) == 0
    assert features_path(out) is None


@pytest.mark.parametrize(
    ("metres", "options", "why"),
    [
        (10.0, [], "depths 10 to 15 m, used are 0.2 to 5 (map.depth_min, map.depth_max): is their unit right?"),
        (1.0, ["--set", "map.depth_max=0.9"], "depths 1 to 1.5 m, used are 0.2 to 0.9 (map.depth_min"),
        (0.0, [], "no pixel has a depth (all are zero or not finite)"),
    ],
)
def test_a_recording_of_nothing_keeps_the_old_map(
    tmp_path: Path, metres: float, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "map.ply"
    assert main(["map", str(record(tmp_path / "good", 1.0)), "--out", str(out), *SMALL]) == 0
    before = contents(out.parent)
    nothing = record(tmp_path / "nothing", metres)
    for more in ([], ["--bare"]):
        error = error_of(["map", str(nothing), "--out", str(out), *SMALL, *options, *more], capsys)
        assert error.startswith(f"chorus map: {nothing}: no Gaussians from 3 frames: {why}")
        assert error.endswith(f"{out} is not written")
    assert contents(out.parent) == before


def test_millimetres_in_a_float_image_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "mm", 1.0)
    for file in (folder / "depth").iterdir():
        cv2.imwrite(str(file.with_suffix(".tiff")), cv2.imread(str(file), cv2.IMREAD_UNCHANGED).astype(np.float32))
        file.unlink()
    error = error_of(["map", str(folder), "--out", str(tmp_path / "map.ply")], capsys)
    assert "depths 1000 to 1500 m, used are 0.2 to 5" in error
    assert not (tmp_path / "map.ply").exists()


def test_what_cannot_be_written_is_said_before_a_frame_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that "room.v1" is no name of a map: the features of "room.v2" would take the place of its own."""

    def never(*_: object) -> RgbdSequence:
        pytest.fail("frames are read")

    monkeypatch.setattr(recorded_map, "Pipeline", never)
    wall = record(tmp_path / "wall", 1.0)
    scene = tmp_path / "scene.ply"
    save_gaussians(scene, Gaussians.empty())
    (tmp_path / "folder.ply").mkdir()
    (tmp_path / "file").write_text("old")
    before = contents(tmp_path)
    for name, why in (
        ("room.v1", "expected NAME.ply"),
        ("room", "expected NAME.ply"),
        ("folder.ply", "Is a directory"),
        ("file/map.ply", "Not a directory"),
        ("file/maps/map.ply", "Not a directory"),
    ):
        for command in (["map", str(wall)], ["encode", str(scene)]):
            error = error_of([*command, "--out", str(tmp_path / name)], capsys)
            assert why in error
            assert str(tmp_path / name) in error
    assert contents(tmp_path) == before


def test_a_point_in_a_folders_name_is_no_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenes room_1.5 and room_1.6 are two; "." is the folder's own name."""
    count = 300
    generator = torch.Generator().manual_seed(0)
    for name in ("room_1.5", "room_1.6"):
        folder = tmp_path / name
        folder.mkdir()
        np.save(folder / "coord.npy", torch.rand((count, 3), generator=generator).numpy())
        np.save(folder / "color.npy", np.full((count, 3), 99, np.uint8))
        np.save(folder / "opacity.npy", np.full((count,), 0.9, np.float32))
        np.save(folder / "quat.npy", np.tile(np.float32((1, 0, 0, 0)), (count, 1)))
        np.save(folder / "scale.npy", np.full((count, 3), 0.02, np.float32))
    assert main(["encode", str(tmp_path / "room_1.5")]) == 0
    monkeypatch.chdir(tmp_path / "room_1.6")
    assert main(["encode", "."]) == 0
    assert sorted(p.name for p in tmp_path.glob("*.ply")) == ["room_1.5.chorus.ply", "room_1.6.chorus.ply"]
