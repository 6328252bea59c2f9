"""Readers of RGB-D folders, on small data sets written in each layout's own form, and on real frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from chorus_core.frames import RgbdFrame
from chorus_core.io.rgbd import RgbdSequence, SequenceError, open_sequence

COUNT, WIDTH, HEIGHT = 4, 32, 24
INTRINSICS = {"fx": 30.0, "fy": 31.0, "cx": 15.5, "cy": 11.5, "width": WIDTH, "height": HEIGHT}


def color_of(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width, 3), (200, 20 * index, 60), np.uint8)


def depth_of(index: int) -> np.ndarray:
    """Metres; column 0 holds none."""
    depth = np.full((HEIGHT, WIDTH), 1.0 + index, np.float32)
    depth[:, 0] = 0
    return depth


def pose_of(index: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", 10 * index, degrees=True).as_matrix()
    pose[:3, 3] = 0.1 * index, 0, 1
    return pose


def write_color(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])


def write_depth(path: Path, metres: np.ndarray, scale: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.round(metres * scale).astype(np.uint16))


def write_pose(path: Path, pose: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, pose)


def write_numbered(folder: Path) -> Path:
    for i in range(COUNT):
        write_color(folder / "color" / f"{2 * i:06d}.jpg", color_of(i))
        write_depth(folder / "depth" / f"{2 * i:06d}.png", depth_of(i), 1000)
        write_pose(folder / "pose" / f"{2 * i:06d}.txt", pose_of(i))
    (folder / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    return folder


def write_seven_scenes(folder: Path) -> Path:
    for i in range(COUNT):
        depth = depth_of(i)
        depth[:, 0] = 65.535
        write_color(folder / f"frame-{2 * i:06d}.color.png", color_of(i))
        write_depth(folder / f"frame-{2 * i:06d}.depth.png", depth, 1000)
        write_pose(folder / f"frame-{2 * i:06d}.pose.txt", pose_of(i))
    return folder


def write_scannet(folder: Path) -> Path:
    for i in range(COUNT):
        write_color(folder / "color" / f"{2 * i}.jpg", color_of(i, 2 * WIDTH, 2 * HEIGHT))
        write_depth(folder / "depth" / f"{2 * i}.png", depth_of(i), 1000)
        write_pose(folder / "pose" / f"{2 * i}.txt", pose_of(i))
    matrix = np.eye(4)
    matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2] = (INTRINSICS[k] for k in ("fx", "fy", "cx", "cy"))
    write_pose(folder / "intrinsic" / "intrinsic_depth.txt", matrix)
    return folder


def write_replica(folder: Path) -> Path:
    for i in range(2 * COUNT - 1):
        write_color(folder / "results" / f"frame{i:06d}.jpg", color_of(i // 2))
        write_depth(folder / "results" / f"depth{i:06d}.png", depth_of(i // 2), 6553.5)
    np.savetxt(folder / "traj.txt", np.array([pose_of(i / 2).reshape(-1) for i in range(2 * COUNT - 1)]))
    camera = {**{k: INTRINSICS[k] for k in ("fx", "fy", "cx", "cy")}, "w": WIDTH, "h": HEIGHT, "scale": 6553.5}
    (folder.parent / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return folder


def write_tum(folder: Path) -> Path:
    """Colour 5 ms after depth; ground truth at other times than either."""
    rgb, depth, truth = ["# color images"], ["# depth maps"], ["# timestamp tx ty tz qx qy qz qw"]
    for i in range(COUNT):
        stamp = 100.0 + i / 15
        write_color(folder / "rgb" / f"{stamp + 0.005:.6f}.png", color_of(i))
        write_depth(folder / "depth" / f"{stamp:.6f}.png", depth_of(i), 5000)
        rgb.append(f"{stamp + 0.005:.6f} rgb/{stamp + 0.005:.6f}.png")
        depth.append(f"{stamp:.6f} depth/{stamp:.6f}.png")
    for index in np.arange(-0.25, COUNT, 0.5):
        pose = pose_of(index)
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        truth.append(f"{100 + index / 15:.6f} {pose[0, 3]} {pose[1, 3]} {pose[2, 3]} {x} {y} {z} {w}")
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "numbered": write_numbered,
    "seven_scenes": write_seven_scenes,
    "scannet": write_scannet,
    "replica": write_replica,
    "tum": write_tum,
}


def new_folder(tmp_path: Path, layout: str, name: str = "recording") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return WRITERS[layout](folder)


def frame_of(frames: list[RgbdFrame], layout: str, index: int) -> RgbdFrame:
    return frames[2 * index] if layout == "replica" else frames[index]


@pytest.mark.parametrize("layout", WRITERS)
def test_frames_are_what_was_written(tmp_path, layout):
    sequence = open_sequence(new_folder(tmp_path, layout))
    assert isinstance(sequence, RgbdSequence)
    frames = list(sequence)
    assert len(frames) == len(sequence) == (2 * COUNT - 1 if layout == "replica" else COUNT)
    assert not sequence.dropped
    for i in range(COUNT):
        frame = frame_of(frames, layout, i)
        assert frame.color.shape == (HEIGHT, WIDTH, 3)
        assert np.abs(frame.color.astype(int) - color_of(i)).max() <= 4
        np.testing.assert_allclose(frame.depth, depth_of(i), atol=1.1e-3 / 2)
        np.testing.assert_allclose(frame.world_from_camera, pose_of(i), atol=2e-5)
        expected_stamp = 100 + i / 15 if layout == "tum" else 2 * i / 30
        assert frame.stamp == pytest.approx(expected_stamp, abs=1e-6)
        if layout in ("numbered", "scannet", "replica"):
            k = frame.intrinsics
            assert (k.fx, k.fy, k.cx, k.cy, k.width, k.height) == tuple(INTRINSICS.values())
    np.testing.assert_array_equal(sequence[-1].color, frames[-1].color)
    with pytest.raises(IndexError):
        sequence[len(sequence)]


def test_default_intrinsics(tmp_path):
    """The published calibrations are of 640x480; the images here are smaller views of the same."""
    seven = open_sequence(new_folder(tmp_path, "seven_scenes", "seq-01"))[0].intrinsics
    assert seven.fx == pytest.approx(585 / 20) and seven.width == WIDTH
    for name, fx in (("rgbd_dataset_freiburg1_xyz", 517.3), ("fr2_desk", 520.9), ("freiburg3", 535.4), ("mine", 525)):
        assert open_sequence(new_folder(tmp_path, "tum", name))[0].intrinsics.fx == pytest.approx(fx / 20)


def test_seven_scenes_takes_a_calibration_where_there_is_one(tmp_path):
    folder = new_folder(tmp_path, "seven_scenes")
    (tmp_path / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    assert open_sequence(folder)[0].intrinsics.fx == 30


@pytest.mark.parametrize("layout", ["numbered", "seven_scenes", "scannet"])
@pytest.mark.parametrize("word", ["-inf", "nan"])
def test_lost_poses_are_dropped_and_counted(tmp_path, layout, word, caplog):
    folder = new_folder(tmp_path, layout)
    pose = next(
        p for p in folder.rglob("*.txt") if p.stem.removesuffix(".pose").removeprefix("frame-") in ("000002", "2")
    )
    pose.write_text((" ".join([word] * 4) + "\n") * 4)
    with caplog.at_level("INFO"):
        sequence = open_sequence(folder)
        assert [f.stamp for f in sequence] == pytest.approx([0, 4 / 30, 6 / 30])
    assert sequence.dropped == {"pose not finite": 1}
    assert "3 frames read, 1 dropped (pose not finite: 1)" in caplog.text


def test_incomplete_frames_are_counted(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    (folder / "depth" / "000000.png").unlink()
    (folder / "pose" / "000002.txt").unlink()
    sequence = open_sequence(folder)
    assert len(sequence) == 2 and sequence.dropped == {"no depth": 1, "no pose": 1}


def test_damaged_image_is_dropped_when_iterating_and_an_error_by_index(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    (folder / "color" / "000002.jpg").write_bytes(b"\xff\xd8 cut short")
    cv2.imwrite(str(folder / "depth" / "000004.png"), np.zeros((5, 50), np.uint16))
    sequence = open_sequence(folder)
    for _ in range(2):  # counts start anew
        assert len(list(sequence)) == 2 and sequence.dropped == {"damaged": 2}
    with pytest.raises(SequenceError, match=r"000002\.jpg.*does not decode"):
        sequence[1]
    with pytest.raises(SequenceError, match=r"000004.*32x24 against depth 50x5"):
        sequence[2]


def test_nothing_readable_is_an_error(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    for path in (folder / "color").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SequenceError, match="none of 4 frames can be read"):
        list(open_sequence(folder))


def test_eight_bit_depth_is_refused(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    cv2.imwrite(str(folder / "depth" / "000000.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(SequenceError, match=r"depth is uint8.*expected uint16"):
        open_sequence(folder)[0]


def test_replica_poses_that_end_early(tmp_path):
    folder = new_folder(tmp_path, "replica")
    lines = (folder / "traj.txt").read_text().splitlines()
    (folder / "traj.txt").write_text("\n".join(lines[:3]))
    sequence = open_sequence(folder)
    assert len(sequence) == 3 and sequence.dropped == {"no pose": 4}


def test_tum_frames_without_partner_or_pose(tmp_path):
    folder = new_folder(tmp_path, "tum")
    lines = (folder / "depth.txt").read_text().splitlines()
    (folder / "depth.txt").write_text("\n".join(lines[:2] + lines[3:]))  # the second depth image
    lines = (folder / "groundtruth.txt").read_text().splitlines()
    (folder / "groundtruth.txt").write_text("\n".join(lines[:6]))  # up to 2.0 frames
    sequence = open_sequence(folder)
    assert sequence.dropped == {"no depth within 20 ms": 1, "no pose": 2} and len(sequence) == 1


@pytest.mark.parametrize(
    ("layout", "file", "content", "message"),
    [
        ("numbered", "intrinsics.json", None, r"intrinsics\.json: No such file"),
        ("numbered", "intrinsics.json", "{", r"intrinsics\.json: not JSON"),
        ("numbered", "intrinsics.json", "[]", "expected an object, got list"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "fx": "wide"}), "fx = 'wide': expected a number"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "fy": 0}), "fx, fy > 0"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "depth_scale": 0}), "depth scale 0"),
        ("numbered", "pose/000002.txt", "1 2 3", r"000002\.txt: expected rows of 4 numbers"),
        ("numbered", "pose/000002.txt", "a b c d\n" * 4, r"000002\.txt: expected rows of 4 numbers: could not"),
        ("numbered", "pose/000002.txt", "1 0 0 0\n0 1 0 0\n0 0 1 0\n", "expected a 4x4 matrix"),
        ("numbered", "color/second.jpg", "", "frame number in the name, got 'second'"),
        ("scannet", "intrinsic/intrinsic_depth.txt", None, r"intrinsic_depth\.txt: No such file"),
        ("replica", "../cam_params.json", None, r"no cam_params\.json"),
        ("replica", "../cam_params.json", "{}", "fx = None: expected a number"),
        ("replica", "traj.txt", "1 2 3\n", r"traj\.txt: expected rows of 16 numbers"),
        ("tum", "groundtruth.txt", None, r"groundtruth\.txt: No such file"),
        ("tum", "groundtruth.txt", "100 1 2 3\n", r"groundtruth\.txt:1: expected 'stamp tx"),
        ("tum", "groundtruth.txt", "100 1 2 3 x 0 0 1\n", r"groundtruth\.txt:1: could not convert"),
        ("tum", "groundtruth.txt", "# empty\n", "no frame with colour, depth and a finite pose"),
        ("tum", "rgb.txt", "100.0\n", r"rgb\.txt:1: expected 'stamp path'"),
        ("tum", "rgb.txt", "soon rgb/a.png\n", r"rgb\.txt:1: stamp 'soon'"),
        ("tum", "rgb.txt", "100.0 ../../secret.png\n", "outside the sequence's folder"),
    ],
)
def test_malformed_files_are_named(tmp_path, layout, file, content, message):
    folder = new_folder(tmp_path, layout)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(SequenceError, match=message):
        open_sequence(folder)


def test_a_pose_that_is_no_rotation_is_a_damaged_frame(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    np.savetxt(folder / "pose" / "000000.txt", 2 * np.eye(4))
    sequence = open_sequence(folder)
    assert len(list(sequence)) == 3 and sequence.dropped == {"damaged": 1}


def test_unknown_layout(tmp_path):
    with pytest.raises(SequenceError, match=r"unknown layout: expected metadata\.yaml"):
        open_sequence(tmp_path)
    with pytest.raises(SequenceError, match="no such file or folder"):
        open_sequence(tmp_path / "none")
    (tmp_path / "movie.mp4").touch()
    with pytest.raises(SequenceError, match=r"expected a folder, .mcap or .db3"):
        open_sequence(tmp_path / "movie.mp4")
    (tmp_path / "color").mkdir()
    (tmp_path / "depth").mkdir()
    (tmp_path / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    with pytest.raises(SequenceError, match=r"no \.jpg or \.png images"):
        open_sequence(tmp_path)


def test_redkitchen(shared):
    """Real frames: neighbouring views must agree on the depth of what both see."""
    sequence = open_sequence(shared / "data" / "redkitchen")
    assert len(sequence) == 300 and not sequence.dropped
    a, b = sequence[0], sequence[5]
    assert a.color.shape == (480, 640, 3) and a.depth.max() < 10
    assert b.stamp - a.stamp == pytest.approx(10 / 30)
    k = a.intrinsics.matrix
    rows, columns = np.nonzero(a.depth)
    rays = np.linalg.inv(k) @ np.stack([columns, rows, np.ones_like(rows)])
    points = np.vstack([rays * a.depth[rows, columns], np.ones(len(rows))])
    in_b = (np.linalg.inv(b.world_from_camera) @ a.world_from_camera @ points)[:3]
    u, v = np.round((k @ in_b)[:2] / in_b[2]).astype(int)
    seen = (u >= 0) & (u < 640) & (v >= 0) & (v < 480)
    measured = b.depth[v[seen], u[seen]]
    both = measured > 0
    assert both.mean() > 0.6
    assert np.median(np.abs(measured[both] - in_b[2][seen][both])) < 0.02
