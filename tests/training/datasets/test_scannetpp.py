"""ScanNet++ v2, on a tiny copy of the real layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import some_pose, write_image, write_json, write_mesh, write_text

from training.datasets import DatasetError
from training.datasets.scannetpp import open_scannetpp

CAMERA = {"fl_x": 50.0, "fl_y": 50.0, "cx": 32.0, "cy": 24.0, "w": 64, "h": 48, "camera_model": "PINHOLE"}
VERTICES = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0], [5, 5, 5]], float)
FACES = np.array([[0, 1, 2], [1, 3, 2]])


def as_the_toolkit_writes(world_from_camera: np.ndarray) -> list[list[float]]:
    """COLMAP's camera to nerfstudio's axes, rows x and y swapped, z negated (scannetpp toolkit, common/utils)."""
    pose = world_from_camera.copy()
    pose[0:3, 1:3] *= -1
    pose = pose[np.array([1, 0, 2, 3]), :]
    pose[2, :] *= -1
    return pose.tolist()


def frame(name: str, angle: float, bad: bool = False) -> dict:
    return {"file_path": name, "transform_matrix": as_the_toolkit_writes(some_pose(angle)), "is_bad": bad}


def write_scene(root: Path, scene: str, labelled: bool = True, undistorted: bool = True) -> None:
    scans, dslr = root / "data" / scene / "scans", root / "data" / scene / "dslr"
    write_mesh(scans / "mesh_aligned_0.05.ply", VERTICES, FACES)
    if labelled:
        write_json(scans / "segments.json", {"sceneId": scene, "segIndices": [0, 0, 1, 1, 2]})
        groups = [
            {"id": 3, "objectId": 9, "label": "office table", "segments": [1]},
            {"id": 4, "objectId": 5, "label": "floor", "segments": [0, 1]},
            {"id": 5, "objectId": 6, "label": "REMOVE", "segments": [2]},
        ]
        write_json(scans / "segments_anno.json", {"sceneId": scene, "segGroups": groups})
    folder, name = ("resized_undistorted_images", "transforms_undistorted.json")
    if not undistorted:
        folder, name = "resized_images", "transforms.json"
    for k in range(4):
        write_image(dslr / folder / f"DSC0000{k}.JPG", np.full((48, 64, 3), 10 * k, np.uint8))
    frames = [frame("DSC00002.JPG", 20), frame("DSC00000.JPG", 0), frame("DSC00001.JPG", 10, bad=True)]
    camera = (
        CAMERA if undistorted else CAMERA | {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0, "k3": 0, "k4": 0}
    )
    tree = camera | {"frames": frames, "test_frames": [frame("DSC00003.JPG", 30)]}
    write_json(dslr / "nerfstudio" / name, tree)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_text(tmp_path / "splits" / "nvs_sem_train.txt", "aa11\nbb22\nmissing\n")
    write_text(tmp_path / "splits" / "nvs_sem_val.txt", "cc33\n")
    write_text(tmp_path / "splits" / "nvs_test.txt", "dd44\n")
    write_text(tmp_path / "splits" / "sem_test.txt", "dd44\n")
    benchmark = tmp_path / "metadata" / "semantic_benchmark"
    write_text(benchmark / "top100.txt", "wall\nfloor\ntable\n")
    write_text(
        benchmark / "map_benchmark.csv",
        ",class,count,semantic_map_to,instance_map_to\n1,floor,4,,\n2,office table,3,table,table\n",
    )
    for scene in ("bb22", "aa11", "cc33"):
        write_scene(tmp_path, scene)
    write_scene(tmp_path, "dd44", labelled=False)
    return tmp_path


def test_scenes(root):
    sources = open_scannetpp(root)
    assert [(s.name, s.subset) for s in sources] == [
        ("aa11", "train"), ("bb22", "train"), ("cc33", "val"), ("dd44", "test"),
    ]  # fmt: skip
    assert sources[3].labels is None


def test_images_lie_in_the_meshes_world(root):
    images = open_scannetpp(root)[0].images
    assert [i.name for i in images] == ["DSC00000.JPG", "DSC00002.JPG"], "bad and held-back images are left out"
    np.testing.assert_allclose(images[1].world_from_camera, some_pose(20.0), atol=1e-12)
    assert images[1].depth is None
    assert images[1].color().shape == (48, 64, 3)
    assert len(open_scannetpp(root, test_frames=True)[0].images) == 3


def test_fisheye_images_are_read_where_there_are_no_undistorted_ones(root):
    write_text(root / "splits" / "nvs_sem_train.txt", "ee55\n")
    write_scene(root, "ee55", undistorted=False)
    image = next(s for s in open_scannetpp(root) if s.name == "ee55").images[-1]
    np.testing.assert_allclose(image.world_from_camera, some_pose(20.0), atol=1e-12)
    assert image.color()[24, 32, 0] == pytest.approx(20, abs=3)


def test_labels(root):
    labels = open_scannetpp(root, spacing=0.05)[0].labels()
    assert labels.classes == ("wall", "floor", "table")
    vertices = slice(0, 5)
    np.testing.assert_allclose(labels.points[vertices], VERTICES)
    # the smaller of two objects has a vertex that both claim
    assert labels.segment[vertices].tolist() == [1, 1, 2, 2, -1]
    assert labels.instance[vertices].tolist() == [1, 1, 0, 0, 2]
    assert [thing.category for thing in labels.instances] == ["table", "floor", "REMOVE"]
    # 4 m2 at a point each (5 cm)2, on the plane of the triangles, labelled by the nearest corner
    sampled = labels.points[5:]
    assert 1500 < len(sampled) < 1700
    assert (sampled[:, 2] == 0).all() and sampled.min() >= 0 and sampled[:, :2].max() <= 2
    clear = np.abs(sampled[:, 1] - 1) > 0.7
    assert ((labels.segment[5:] == 2) == (sampled[:, 1] > 1))[clear].all()
    again = open_scannetpp(root, spacing=0.05)[0].labels()
    np.testing.assert_array_equal(labels.points, again.points)


def test_without_a_mapping_raw_labels_count(root):
    (root / "metadata/semantic_benchmark/map_benchmark.csv").unlink()
    labels = open_scannetpp(root, spacing=1.0)[0].labels()
    assert labels.segment[:5].tolist() == [1, 1, -1, -1, -1]


def test_broken(root):
    scans = root / "data" / "aa11" / "scans"
    write_json(scans / "segments.json", {"segIndices": [1, 2]})
    with pytest.raises(DatasetError, match=r"segments.json.*\(2,\), expected \(5,\)"):
        open_scannetpp(root)[0].labels()
    (scans / "segments.json").write_text("{")
    with pytest.raises(DatasetError, match=r"segments\.json: damaged"):
        open_scannetpp(root)[0].labels()
    (root / "metadata/semantic_benchmark/top100.txt").unlink()
    with pytest.raises(DatasetError, match=r"no class names.*top100.txt.*semantic_classes.txt"):
        open_scannetpp(root)
    with pytest.raises(DatasetError, match="no split list"):
        open_scannetpp(root, classes=["wall"], splits=root)
