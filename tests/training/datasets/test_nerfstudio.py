"""``transforms.json``: camera axes, pixels, distortion, depth; and ScanNet++'s turned world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import some_pose, write_image, write_json

from training.datasets import DatasetError
from training.datasets.nerfstudio import read_transforms

WIDTH, HEIGHT = 64, 48
CAMERA = {"fl_x": 50.0, "fl_y": 52.0, "cx": 32.0, "cy": 24.0, "w": WIDTH, "h": HEIGHT}


def gl_pose(world_from_camera: np.ndarray) -> list[list[float]]:
    """With OpenGL axes: right, up, back."""
    pose = world_from_camera.copy()
    pose[:, 1] *= -1
    pose[:, 2] *= -1
    return pose.tolist()


def ramp() -> np.ndarray:
    """Red counts columns, green rows, in fours."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0], image[..., 1] = 4 * np.arange(WIDTH)[None, :], 4 * np.arange(HEIGHT)[:, None]
    return image


def write_transforms(folder: Path, count: int = 3, camera: dict | None = None, **frame: object) -> Path:
    frames = []
    for k in reversed(range(count)):
        write_image(folder / "images" / f"frame_{k:05d}.png", ramp())
        entry = {"file_path": f"images/frame_{k:05d}.png", "transform_matrix": gl_pose(some_pose(10.0 * k))}
        frames.append(entry | frame)
    write_json(folder / "transforms.json", (CAMERA if camera is None else camera) | {"frames": frames})
    return folder / "transforms.json"


def test_images_by_name_in_our_conventions(tmp_path):
    images = read_transforms(write_transforms(tmp_path))
    assert [i.name for i in images] == [f"images/frame_{k:05d}.png" for k in range(3)]
    k = images[0].intrinsics
    # a centred principal point lies between the two middle pixels
    assert (k.fx, k.fy, k.cx, k.cy, k.width, k.height) == (50, 52, 31.5, 23.5, 64, 48)
    np.testing.assert_allclose(images[2].world_from_camera, some_pose(20.0), atol=1e-12)
    np.testing.assert_array_equal(images[2].color(), ramp())
    assert images[2].depth is None
    assert [i.name[-9:-4] for i in read_transforms(tmp_path / "transforms.json", every=2)] == ["00000", "00002"]


def test_depth_and_its_unit(tmp_path):
    depth = np.full((HEIGHT // 2, WIDTH // 2), 2500, np.uint16)
    depth[0, 0] = 0
    write_image(tmp_path / "depth" / "d.png", depth)
    path = write_transforms(tmp_path, 1, depth_file_path="depth/d.png")
    metres = read_transforms(path)[0].depth()
    assert metres.shape == (HEIGHT, WIDTH) and metres[0, 0] == 0 and metres[-1, -1] == np.float32(2.5)
    path = write_transforms(tmp_path, 1, CAMERA | {"depth_unit_scale_factor": 1e-4}, depth_file_path="depth/d.png")
    np.testing.assert_allclose(read_transforms(path)[0].depth()[-1, -1], 0.25, rtol=1e-6)


def test_a_camera_of_its_own_for_a_frame(tmp_path):
    path = write_transforms(tmp_path, 1, {}, **CAMERA, camera_model="PINHOLE")
    assert read_transforms(path)[0].intrinsics.fx == 50


@pytest.mark.parametrize("fisheye", [False, True])
def test_distortion_is_undone(tmp_path, fisheye):
    if fisheye:
        lens = {"camera_model": "OPENCV_FISHEYE", "k1": -0.05, "k2": 0.02, "k3": 0.01, "k4": -0.01}
    else:
        lens = {"camera_model": "OPENCV", "k1": -0.4, "k2": 0.05, "p1": 0.01, "p2": -0.005}
    path = write_transforms(tmp_path, 1, CAMERA | lens)
    color = read_transforms(path)[0].color()
    # where the ray of a pinhole pixel meets the lens's image, by the models' own equations
    v, u = np.mgrid[4:44:4, 6:58:4]
    x, y = (u - 31.5) / 50, (v - 23.5) / 52
    r2 = x * x + y * y
    if fisheye:
        r, theta = np.sqrt(r2), np.arctan(np.sqrt(r2))
        bent = theta * (1 + sum(lens[f"k{n}"] * theta ** (2 * n) for n in (1, 2, 3, 4)))
        xd, yd = x * bent / r, y * bent / r
    else:
        radial = 1 + lens["k1"] * r2 + lens["k2"] * r2 * r2
        xd = x * radial + 2 * lens["p1"] * x * y + lens["p2"] * (r2 + 2 * x * x)
        yd = y * radial + lens["p1"] * (r2 + 2 * y * y) + 2 * lens["p2"] * x * y
    np.testing.assert_allclose(color[v, u, 0], 4 * (50 * xd + 31.5), atol=1.0)
    np.testing.assert_allclose(color[v, u, 1], 4 * (52 * yd + 23.5), atol=1.0)
    assert np.abs(color[v, u].astype(int) - ramp()[v, u]).max() > 3, "the lens must matter"


def test_depth_is_undistorted_without_mixing(tmp_path):
    depth = np.full((HEIGHT, WIDTH), 1000, np.uint16)
    depth[:, WIDTH // 2 :] = 3000
    write_image(tmp_path / "d.png", depth)
    path = write_transforms(tmp_path, 1, CAMERA | {"k1": -0.3}, depth_file_path="d.png")
    assert set(np.unique(read_transforms(path)[0].depth())) <= {np.float32(0), np.float32(1), np.float32(3)}


def test_bad_frames_are_left_out(tmp_path):
    path = write_transforms(tmp_path, 2, is_bad=True)
    with pytest.raises(DatasetError, match="no frames"):
        read_transforms(path)


@pytest.mark.parametrize(
    ("camera", "frame", "message"),
    [
        ({k: v for k, v in CAMERA.items() if k != "fl_x"}, {}, "fl_x = None: expected a number"),
        (CAMERA | {"camera_model": "EQUIRECTANGULAR"}, {}, "camera_model 'EQUIRECTANGULAR'"),
        (CAMERA | {"fl_x": -3.0}, {}, "fx, fy > 0"),
        (CAMERA, {"file_path": "images/nowhere"}, "'images/nowhere': no such image"),
        (CAMERA, {"file_path": 3}, "file_path = 3"),
        (CAMERA, {"transform_matrix": [[1, 2], [3, 4]]}, "transform_matrix: expected 4x4"),
        (CAMERA, {"transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}, "not a rotation"),
    ],
)
def test_broken(tmp_path, camera, frame, message):
    path = write_transforms(tmp_path, 1, camera, **frame)
    with pytest.raises(DatasetError, match=message):
        read_transforms(path)
