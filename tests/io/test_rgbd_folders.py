"""Readers of RGB-D folders, on small data sets written in each layout's own form, and on real frames."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from folder_layouts import COUNT, HEIGHT, INTRINSICS, WIDTH, WRITERS, color_of, depth_of, pose_of, write_color

from chorus_core.frames import RgbdFrame
from chorus_core.io.rgbd import RgbdSequence, SequenceError, open_sequence

FAR_OFF = {"camera": {"w": 32, "h": 24, "fx": 30, "fy": 31, "cx": 32, "cy": -13}}
POSE_OF_SECOND = ("000002.txt", "2.txt", "frame-000002.pose.txt")


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
        assert frame.stamp * 1e-9 == pytest.approx(expected_stamp, abs=1e-6)
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
    for name, fx in (
        ("rgbd_dataset_freiburg1_xyz", 517.3),
        ("fr2_desk", 520.9),
        ("freiburg3", 535.4),
        ("rgbd_bonn_balloon", 542.822841),
        ("mine", 525),
        ("afr1ca_lab", 525),
    ):
        assert open_sequence(new_folder(tmp_path, "tum", name))[0].intrinsics.fx == pytest.approx(fx / 20)


@pytest.mark.parametrize("layout", ["numbered", "seven_scenes", "scannet", "tum"])
@pytest.mark.parametrize("place", [".", ".."])
def test_own_calibration_comes_first(tmp_path, layout, place, caplog):
    folder = new_folder(tmp_path, layout, "freiburg1")
    scale = 5000 if layout == "tum" else 1000
    (folder / "intrinsics.json").unlink(missing_ok=True)
    own = {**INTRINSICS, "fx": 33.0, "depth_scale": scale / 2}
    (folder / place / "intrinsics.json").write_text(json.dumps(own))
    frame = open_sequence(folder)[0]
    assert frame.intrinsics.fx == 33 and frame.depth.max() == pytest.approx(2)
    assert "guess" not in caplog.text


def test_tum_units_hold_where_the_calibration_does_not_name_any(tmp_path):
    folder = new_folder(tmp_path, "tum")
    (folder / "intrinsics.json").write_text(json.dumps(INTRINSICS))
    assert open_sequence(folder)[0].depth.max() == pytest.approx(1)


def test_eth3d(tmp_path, caplog):
    folder = new_folder(tmp_path, "tum")
    (folder / "calibration.txt").write_text("30.5 31.5 15.25 11.75\n")
    k = open_sequence(folder)[0].intrinsics
    assert (k.fx, k.fy, k.cx, k.cy, k.width, k.height) == (30.5, 31.5, 15.25, 11.75, WIDTH, HEIGHT)
    assert "guess" not in caplog.text
    (folder / "calibration.txt").write_text("615 615 319.5 239.5\n")
    with pytest.raises(SequenceError, match=r"principal point 319\.5, 239\.5 in images of 32x24.*intrinsics\.json"):
        open_sequence(folder)
    (folder / "calibration.txt").write_text("615 615\n")
    with pytest.raises(SequenceError, match=r"calibration\.txt:1: expected fx fy cx cy, got 2 words"):
        open_sequence(folder)


@pytest.mark.parametrize("layout", ["tum", "seven_scenes"])
def test_a_guess_is_said_once_and_refused_where_it_cannot_be(tmp_path, layout, caplog):
    folder = new_folder(tmp_path, layout)
    list(open_sequence(folder))
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "guess" in warning and "intrinsics.json" in warning
    wide = tmp_path / "wide"
    wide.mkdir()
    WRITERS[layout](wide)
    for path in wide.rglob("*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:18])
    with pytest.raises(SequenceError, match=r"images of 32x18 cannot be of .*\(640x480\): an intrinsics\.json"):
        open_sequence(wide)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (1296, 968), (640, 480)])
def test_scannet_at_another_size(tmp_path, width, height, caplog):
    """The file keeps the calibration of 640x480. A ray through a pixel's centre must stay what it was there."""
    folder = new_folder(tmp_path, "scannet")
    for path in (folder / "depth").iterdir():
        cv2.imwrite(str(path), np.full((height, width), 1000, np.uint16))
    k = np.eye(4)
    k[0, 0], k[1, 1], k[0, 2], k[1, 2] = 577.87, 578.5, 319.5, 239.5
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", k)
    found = open_sequence(folder)[0].intrinsics
    assert (found.width, found.height) == (width, height)
    sx, sy = width / 640, height / 480
    assert (found.fx, found.fy) == pytest.approx((577.87 * sx, 578.5 * sy))
    assert (found.cx, found.cy) == pytest.approx((320 * sx - 0.5, 240 * sy - 0.5))
    assert ("of 640x480 images" in caplog.text) == (width != 640)


def test_scannet_cropped_is_refused(tmp_path):
    folder = new_folder(tmp_path, "scannet")
    k = np.diag([577.87, 577.87, 1, 1])
    k[0, 2], k[1, 2] = 100, 80
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", k)
    with pytest.raises(SequenceError, match=r"principal point 100, 80 .*32x24.*intrinsics\.json"):
        open_sequence(folder)


SENS_INFO = """m_versionNumber = 4
m_sensorName = StructureSensor
m_colorWidth = 64
m_colorHeight = 36
m_depthWidth = 32
m_depthHeight = 24
m_depthShift = 1000
m_calibrationColorIntrinsic = 60 0 31.5 0 0 60 17.5 0 0 0 1 0 0 0 0 1
m_calibrationDepthIntrinsic = 30 0 15.5 0 0 30 11.5 0 0 0 1 0 0 0 0 1
"""


@pytest.mark.parametrize("name", ["info.txt", "_info.txt", "../info.txt"])
def test_two_cameras_of_a_sens_file(tmp_path, name):
    """A ramp that says the ray: colour at depth pixel (u, v) must be that of the colour pixel on the same ray."""
    folder = new_folder(tmp_path, "seven_scenes")
    ramp = np.zeros((36, 64, 3), np.uint8)
    ramp[:, :, 0], ramp[:, :, 1] = 3 * np.arange(64), 3 * np.arange(36)[:, None]
    for path in folder.glob("*.color.png"):
        write_color(path.with_name(path.name.replace(".png", ".jpg")), ramp)
        path.unlink()
        cv2.imwrite(
            str(path.with_name(path.name.replace(".color.png", ".depth.pgm"))), np.full((24, 32), 1500, np.uint16)
        )
        path.with_name(path.name.replace("color", "depth")).unlink()
    (folder / name).write_text(SENS_INFO)
    frame = open_sequence(folder)[0]
    assert frame.intrinsics.fx == 30 and frame.depth.max() == 1.5
    v, u = np.nonzero(frame.depth)
    assert (v.min(), v.max(), u.min(), u.max()) == (3, 20, 0, 31)  # colour is 36 / 60 high, depth 24 / 30
    expected = 3 * np.stack([(u - 15.5) / 30 * 60 + 31.5, (v - 11.5) / 30 * 60 + 17.5])
    assert np.abs(frame.color[v, u, :2].T - expected).max() < 3.5  # of JPEG


def test_a_sens_file_that_lacks_a_field(tmp_path):
    folder = new_folder(tmp_path, "seven_scenes")
    (folder / "info.txt").write_text(SENS_INFO.replace("m_depthShift = 1000\n", ""))
    with pytest.raises(SequenceError, match=r"info\.txt: m_depthShift: expected 1 numbers, got 0 words"):
        open_sequence(folder)


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
        assert [f.stamp for f in sequence] == [0, 133_333_333, 200_000_000]
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
    with pytest.raises(SequenceError, match=r"000002\.jpg.*begins with"):
        sequence[1]
    with pytest.raises(SequenceError, match=r"000004.*32x24 against depth 50x5"):
        sequence[2]


def test_nothing_readable_is_an_error(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    for path in (folder / "color").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SequenceError, match="none of 4 frames can be read"):
        list(open_sequence(folder))


def test_depth_in_metres_of_floating_point(tmp_path):
    """TIFF holds metres as they are; the unit of 16-bit images is no concern of theirs."""
    folder = new_folder(tmp_path, "numbered")
    for index, path in enumerate(sorted((folder / "depth").iterdir())):
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".tiff")), np.where(depth_of(index) > 0, depth_of(index), np.nan))
    for index, frame in enumerate(open_sequence(folder)):
        np.testing.assert_array_equal(frame.depth, depth_of(index))


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
        ("numbered", "intrinsics.json", None, r"no intrinsics\.json in it or in its parent"),
        ("numbered", "intrinsics.json", "{", r"intrinsics\.json: damaged or of another form: JSONDecodeError"),
        ("numbered", "intrinsics.json", "[" * 10**5, r"intrinsics\.json: nested more than"),
        ("numbered", "intrinsics.json", "[]", "expected a mapping, got list"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "fx": "wide"}), "fx = 'wide': expected a number"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "fx": 10**400}), "fx = '1000.*: expected a number"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "width": 31.5}), "expected whole pixels"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "fy": 0}), "fx, fy > 0"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "fx": 1e30}), "focal lengths 1e\\+30, 31 at 32x24"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "width": 32000}), "focal lengths 30, 31 at 32000x24"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "fx": 0.8}), "focal lengths 0.8, 31 at 32x24"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "cx": 1000}), "principal point 1000, .* of 32x24"),
        ("numbered", "intrinsics.json", json.dumps({**INTRINSICS, "depth_scale": 0}), "depth scale 0"),
        ("scannet", "intrinsic/intrinsic_depth.txt", None, r"intrinsic_depth\.txt: No such file"),
        (
            "scannet",
            "intrinsic/intrinsic_depth.txt",
            "1 2 3\n",
            r"intrinsic_depth\.txt: expected a 4x4 matrix, got 1 row",
        ),
        ("replica", "../cam_params.json", None, r"no cam_params\.json"),
        ("replica", "../cam_params.json", json.dumps(FAR_OFF), "cam_params.json: principal point 32, -13 .* of 32x24"),
        ("replica", "../cam_params.json", "{}", "fx = 'None': expected a number"),
        ("replica", "traj.txt", "1 2 3\n", r"traj\.txt:1: expected 16 numbers of a 4x4 pose, got 3 words \(1 of 1"),
        ("tum", "groundtruth.txt", None, r"groundtruth\.txt: No such file"),
        ("tum", "groundtruth.txt", "100 1 2 3\n", r"groundtruth\.txt:1: expected 'stamp tx"),
        (
            "tum",
            "groundtruth.txt",
            "100 1 2 3 x 0 0 1\n",
            r"groundtruth\.txt:1: expected 'stamp tx.*: could not convert",
        ),
        ("tum", "groundtruth.txt", "# empty\n", "no frame with colour, depth and a finite pose"),
        ("tum", "rgb.txt", "100.0\n", r"rgb\.txt:1: expected 'stamp path'"),
        ("tum", "rgb.txt", "soon rgb/a.png\n", r"rgb\.txt:1: stamp 'soon'"),
        ("tum", "rgb.txt", "100.0 ../../secret.png\n", "outside the sequence's folder"),
        ("tum", "rgb.txt", "100.0 rgb/\0.png\n", r"rgb\.txt:1: .* lies outside"),
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


@pytest.mark.parametrize("layout", ["numbered", "seven_scenes", "scannet"])
@pytest.mark.parametrize("content", ["", "1 0 0 0\n0 1 0", "1 0 0 x\n" * 4, "\ud800" * 8])
def test_a_broken_pose_file_drops_its_frame(tmp_path, layout, content, caplog):
    folder = new_folder(tmp_path, layout)
    broken = next(path for path in folder.rglob("*.txt") if path.name in POSE_OF_SECOND)
    broken.write_text(content, errors="surrogatepass")
    sequence = open_sequence(folder)
    assert len(sequence) == 3 and sequence.dropped == {"pose not readable": 1}
    assert caplog.text.count("1 of 4 left out") == 1 and broken.name in caplog.text


def test_mostly_broken_poses_are_refused(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    for number in (0, 2, 4):
        (folder / "pose" / f"{number:06d}.txt").write_text("")
    with pytest.raises(SequenceError, match=r"000000\.txt: expected a 4x4 matrix, got 0 rows \(3 of 4 like it\)"):
        open_sequence(folder)


def test_a_stray_image_is_left_out(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    write_color(folder / "color" / "preview.jpg", color_of(0))
    sequence = open_sequence(folder)
    assert len(sequence) == COUNT and sequence.dropped == {"no frame number in the name": 1}


@pytest.mark.parametrize("name", ["rgb.txt", "depth.txt", "groundtruth.txt"])
def test_lists_with_a_broken_last_line(tmp_path, name, caplog):
    folder = new_folder(tmp_path, "tum")
    with (folder / name).open("a") as file:
        file.write("100.9")
    sequence = open_sequence(folder)
    assert len(list(sequence)) == COUNT and f"{name}: 1 of" in caplog.text
    assert sequence.dropped == ({"line not readable": 1} if name == "rgb.txt" else {})


@pytest.mark.parametrize("layout", WRITERS)
def test_byte_order_marks_and_carriage_returns(tmp_path, layout, caplog):
    folder = new_folder(tmp_path, layout, "freiburg1")
    for path in (*folder.rglob("*.txt"), *tmp_path.rglob("*.json")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(list(open_sequence(folder))) == (2 * COUNT - 1 if layout == "replica" else COUNT)
    assert "left out" not in caplog.text


def test_a_broken_line_of_a_trajectory(tmp_path):
    folder = new_folder(tmp_path, "replica")
    lines = (folder / "traj.txt").read_text().splitlines()
    lines[2] = lines[2][:100]
    (folder / "traj.txt").write_text("\n".join(lines))
    sequence = open_sequence(folder)
    assert [round(30e-9 * frame.stamp) for frame in sequence] == [0, 1, 3, 4, 5, 6]
    assert sequence.dropped == {"pose not readable": 1}
    np.testing.assert_allclose(sequence[-1].world_from_camera, pose_of(3), atol=2e-5)


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
    assert b.stamp - a.stamp == 333_333_333
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


@pytest.mark.parametrize("place", [".", ".."])
def test_own_calibration_comes_before_that_of_replica(tmp_path, place):
    folder = new_folder(tmp_path, "replica")
    own = {**INTRINSICS, "fx": 33.0, "depth_scale": 6553.5 / 2}
    (folder / place / "intrinsics.json").write_text(json.dumps(own))
    frame = open_sequence(folder)[0]
    assert frame.intrinsics.fx == 33 and frame.depth.max() == pytest.approx(2, abs=1e-3)


def test_images_by_symbolic_links_and_names_with_blanks(tmp_path):
    folder = new_folder(tmp_path, "tum")
    (folder / "rgb").rename(tmp_path / "elsewhere")
    (folder / "rgb").symlink_to(tmp_path / "elsewhere")
    for name in ("rgb", "depth"):
        path = next((folder / name).iterdir())
        path.rename(path.with_name(f"image {path.name}"))
        lists = folder / f"{name}.txt"
        lists.write_text(lists.read_text().replace(f"/{path.name}", f"/image {path.name}"))
    assert len(list(open_sequence(folder))) == COUNT


@pytest.mark.parametrize("name", ["../elsewhere/a.png", "/etc/hostname", "a\0b.png"])
def test_images_named_outside_of_the_folder_are_refused(tmp_path, name):
    folder = new_folder(tmp_path, "tum")
    (folder / "rgb.txt").write_text(f"100.0 {name}\n")
    with pytest.raises(SequenceError, match="lies outside the sequence's folder"):
        open_sequence(folder)


def test_suffixes_in_upper_case_and_an_image_in_two_forms(tmp_path):
    folder = new_folder(tmp_path, "numbered")
    for path in (folder / "depth").iterdir():
        path.rename(path.with_suffix(".PNG"))
    write_color(folder / "color" / "000000.png", color_of(0))
    sequence = open_sequence(folder)
    assert len(sequence) == COUNT and sequence.dropped == {"colour of a frame twice": 1}
