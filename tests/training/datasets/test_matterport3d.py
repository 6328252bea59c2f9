"""Matterport3D, on a tiny copy of the real layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import some_pose, write_image, write_mesh, write_text

from training.datasets import DatasetError
from training.datasets.matterport3d import MATTERPORT21, open_matterport3d

WIDTH, HEIGHT = 40, 32
MATRICES = (
    np.array([[33.0, 0, 19.7], [0, 33.5, 15.9], [0, 0, 1]]),
    np.array([[34.0, 0, 20.1], [0, 34.5, 12.0], [0, 0, 1]]),
)
TABLE = """index\traw_category\tcategory\tcount\tnyuId\tnyu40id\tnyuClass\tnyu40class
1\twall\twall\t7667\t21\t1\twall\twall
2\tfridge\trefrigerator\t9\t17\t24\trefridgerator\trefridgerator
3\tpotted plant\tplant\t9\t82\t40\tplant\totherprop
"""
VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [2, 1, 0], [9, 9, 9]], float)
FACES = np.array([[0, 1, 2], [1, 3, 2], [1, 4, 3], [3, 4, 2]])
OBJECTS, CATEGORIES = np.array([4, 4, 7, 7], np.int32), np.array([1, 1, 2, 2], np.int32)


def gl_pose(k: int) -> np.ndarray:
    return some_pose(20.0 * k) @ np.diag([1.0, -1, -1, 1])


def write_house(root: Path, name: str, nested: bool = False, regions: bool = False) -> Path:
    folder = root / "v1" / "scans" / name
    folder = folder / name if nested else folder
    lines = ["dataset matterport", "n_images 2", "depth_directory undistorted_depth_images", ""]
    for k, matrix in enumerate(MATRICES):
        lines.append("intrinsics_matrix " + " ".join(f"{v:g}" for v in matrix.reshape(-1)))
        pose = " ".join(f"{v:.9f}" for v in gl_pose(k).reshape(-1))
        lines.append(f"scan 0f37_d{k}_0.png 0f37_i{k}_0.jpg {pose}")
        lines.append("")
        write_image(folder / "undistorted_color_images" / f"0f37_i{k}_0.jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        write_image(folder / "undistorted_depth_images" / f"0f37_d{k}_0.png", np.full((HEIGHT, WIDTH), 6000, np.uint16))
    write_text(folder / "undistorted_camera_parameters" / f"{name}.conf", "\n".join(lines))
    columns = {"material_id": np.arange(4, dtype=np.int32), "segment_id": OBJECTS, "category_id": CATEGORIES}
    if regions:
        for k in range(2):
            mesh = folder / "region_segmentations" / f"region{k}.ply"
            write_mesh(mesh, VERTICES + 10 * k, FACES, face_columns=columns)
    else:
        write_mesh(folder / "house_segmentations" / f"{name}.ply", VERTICES, FACES, face_columns=columns)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_text(tmp_path / "category_mapping.tsv", TABLE)
    write_text(tmp_path / "scenes_train.txt", "17DRP5sb8fy\nVzqfbhrpDEA\n")
    write_text(tmp_path / "scenes_val.txt", "2azQ1b91cZZ\n")
    write_house(tmp_path, "VzqfbhrpDEA", nested=True)
    write_house(tmp_path, "17DRP5sb8fy")
    write_house(tmp_path, "2azQ1b91cZZ", regions=True)
    return tmp_path


def test_scenes(root):
    sources = open_matterport3d(root)
    assert [(s.name, s.subset) for s in sources] == [
        ("17DRP5sb8fy", "train"), ("2azQ1b91cZZ", "val"), ("VzqfbhrpDEA", "train"),
    ]  # fmt: skip
    assert all(len(s.images) == 2 for s in sources)


@pytest.mark.parametrize("k", [0, 1])
def test_a_point_lands_where_the_data_sets_own_camera_puts_it(root, k):
    """Their camera looks along -z with y up, and counts rows from the bottom (data_organization.md)."""
    image = open_matterport3d(root)[0].images[k]
    point = gl_pose(k) @ np.array([0.3, 0.2, -2.0, 1.0])
    column = MATRICES[k][0, 0] * 0.3 / 2 + MATRICES[k][0, 2]
    row_from_below = MATRICES[k][1, 1] * 0.2 / 2 + MATRICES[k][1, 2]
    in_camera = np.linalg.inv(image.world_from_camera) @ point
    pixel = image.intrinsics.matrix @ in_camera[:3] / in_camera[2]
    np.testing.assert_allclose(pixel[:2], (column, HEIGHT - 1 - row_from_below), atol=1e-5)
    assert in_camera[2] == pytest.approx(2.0)


def test_pixels(root):
    image = open_matterport3d(root)[2].images[0]
    assert image.name == "0f37_i0_0"
    assert image.color().shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(image.depth(), np.float32(1.5))
    assert len(open_matterport3d(root, every=2)[0].images) == 1


def test_labels_of_21_classes(root):
    labels = open_matterport3d(root)[0].labels()
    assert labels.classes == MATTERPORT21 and len(labels.classes) == 21
    wall, fridge = MATTERPORT21.index("wall"), MATTERPORT21.index("refrigerator")
    assert labels.segment.tolist() == [wall, wall, wall, fridge, fridge, -1]
    assert labels.instance.tolist() == [0, 0, 0, 1, 1, -1]
    assert [thing.category for thing in labels.instances] == ["wall", "refrigerator"]


def test_labels_of_nyu_classes(root):
    labels = open_matterport3d(root, label_set="nyu160", classes=["refridgerator", "plant"])[0].labels()
    assert labels.segment.tolist() == [-1, -1, -1, 0, 0, -1]
    with pytest.raises(DatasetError, match="'nyu160' needs names"):
        open_matterport3d(root, label_set="nyu160")


def test_objects_of_regions_are_numbered_through(root):
    labels = open_matterport3d(root)[1].labels()
    assert labels.instance.tolist() == [0, 0, 0, 1, 1, -1, 2, 2, 2, 3, 3, -1]
    assert len(labels.instances) == 4 and labels.points[6:].min() == 10


def test_unlabelled_faces(root):
    path = root / "v1/scans/17DRP5sb8fy/house_segmentations/17DRP5sb8fy.ply"
    columns = {"segment_id": np.array([4, 4, -1, -1], np.int32), "category_id": np.array([3, 3, -1, -1], np.int32)}
    write_mesh(path, VERTICES, FACES, face_columns=columns)
    labels = open_matterport3d(root)[0].labels()
    assert (labels.segment == -1).all(), "plants are no class of the 21"
    assert labels.instance.tolist() == [1, 1, 1, -1, -1, -1]


def test_the_real_mapping_knows_every_class():
    folder = Path(__file__).parents[4] / "shared" / "labels"
    if not folder.is_dir():
        pytest.skip("label files of Matterport3D are not there")
    from training.datasets.files import class_names
    from training.datasets.matterport3d import _category_places

    table = folder / "matterport_category_mapping.tsv"
    assert class_names(folder / "matterport_labels_21.txt") == MATTERPORT21
    assert set(_category_places(table, "nyu40class", MATTERPORT21)[0]) == set(range(-1, 21))
    names = class_names(folder / "matterport_nyu160_labels.txt")
    assert set(_category_places(table, "nyuClass", names)[0]) == set(range(-1, 160))


def test_broken(root):
    house = root / "v1" / "scans" / "17DRP5sb8fy"
    conf = house / "undistorted_camera_parameters" / "17DRP5sb8fy.conf"
    conf.write_text("scan a.png b.jpg 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n")
    with pytest.raises(DatasetError, match="conf: entry 1: scan before any intrinsics_matrix"):
        open_matterport3d(root)[0].images[0]
    conf.write_text("intrinsics_matrix 1 0 0 0 1 0 0 0 1\nscan a.png b.jpg 1 2\n")
    with pytest.raises(DatasetError, match=r"entry 2.*16 numbers"):
        open_matterport3d(root)[0].images[0]
    write_mesh(house / "house_segmentations" / "17DRP5sb8fy.ply", VERTICES, FACES)
    with pytest.raises(DatasetError, match="without segment_id and category_id"):
        open_matterport3d(root)[0].labels()
    with pytest.raises(DatasetError, match="label_set = 'coco'"):
        open_matterport3d(root, label_set="coco")
