"""ScanNet and ScanNet200, on a tiny copy of the real layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from layouts import some_pose, write_image, write_json, write_matrix, write_mesh, write_text

from training.datasets import DatasetError, open_dataset
from training.datasets.scannet import NYU40_OF_SCANNET20, open_scannet, open_scannet200

TABLE = """id\traw_category\tcategory\tcount\tnyu40id\teigen13id\tnyuClass\tnyu40class
1\twall\twall\t8277\t1\t12\twall\twall
2\tchair\tchair\t4646\t5\t4\tchair\tchair
13\toffice chair\toffice chair\t595\t5\t4\tchair\tchair
2\tchairs\tchair\t8\t5\t4\tchair\tchair
54\tbanana\tbanana\t1\t40\t7\tbanana\totherprop
"""
SCANNET200 = ("wall", "chair", "office chair")
ALIGNMENT = np.array([[0.0, -1, 0, 2], [1, 0, 0, -3], [0, 0, 1, 0.5], [0, 0, 0, 1]])
VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 2, 2], [3, 3, 3]], float)
FACES = np.array([[0, 1, 2], [2, 3, 4]])


def write_scene(root: Path, scene: str, folder: str = "scans", labelled: bool = True, frames: int = 5) -> Path:
    stem = root / folder / scene / scene
    write_mesh(Path(f"{stem}_vh_clean_2.ply"), VERTICES, FACES)
    if labelled:
        values = " ".join(f"{v:g}" for v in ALIGNMENT.reshape(-1))
        write_text(Path(f"{stem}.txt"), f"appVersionId = 21\naxisAlignment = {values} \ncolorHeight = 968\n")
        write_json(
            Path(f"{stem}_vh_clean_2.0.010000.segs.json"),
            {"sceneId": scene, "segIndices": [7, 7, 30, 30, 11, 99]},
        )
        groups = [
            {"id": 0, "objectId": 0, "segments": [7], "label": "wall"},
            {"id": 1, "objectId": 1, "segments": [30], "label": "office chair"},
            {"id": 2, "objectId": 2, "segments": [11], "label": "banana"},
        ]
        write_json(Path(f"{stem}.aggregation.json"), {"sceneId": f"scannet.{scene}", "segGroups": groups})
        nyu40 = np.array([1, 1, 5, 5, 40, 0], np.uint16)
        write_mesh(Path(f"{stem}_vh_clean_2.labels.ply"), VERTICES, FACES, {"label": nyu40})
    for k in range(frames):
        write_image(stem.parent / "color" / f"{k}.jpg", np.full((48, 64, 3), (200, 100, 40 + k), np.uint8))
        write_image(stem.parent / "depth" / f"{k}.png", np.full((24, 32), 1000 + k, np.uint16))
        lost = k == 2
        write_matrix(stem.parent / "pose" / f"{k}.txt", np.full((4, 4), -np.inf) if lost else some_pose(10.0 * k))
    for camera, factor in (("depth", 1.0), ("color", 2.0)):
        matrix = np.diag([30.0 * factor, 31.0 * factor, 1, 1])
        matrix[:2, 2] = 15.0 * factor, 11.0 * factor
        write_matrix(stem.parent / "intrinsic" / f"intrinsic_{camera}.txt", matrix)
    return stem.parent


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_text(tmp_path / "scannetv2-labels.combined.tsv", TABLE)
    write_text(tmp_path / "scannet200_labels.txt", "\n".join(SCANNET200) + "\n")
    write_text(tmp_path / "scannetv2_train.txt", "scene0001_00\nscene0000_01\nscene0404_00\n")
    write_text(tmp_path / "scannetv2_val.txt", "scene0002_00\n")
    write_text(tmp_path / "scannetv2_test.txt", "scene0707_00\n")
    for scene in ("scene0000_01", "scene0001_00", "scene0002_00"):
        write_scene(tmp_path, scene)
    write_scene(tmp_path, "scene0707_00", "scans_test", labelled=False)
    return tmp_path


def test_scenes_by_name_with_the_lists_subsets(root):
    sources = open_dataset("scannet", root)
    assert [(s.name, s.subset) for s in sources] == [
        ("scene0000_01", "train"), ("scene0001_00", "train"), ("scene0002_00", "val"), ("scene0707_00", "test"),
    ]  # fmt: skip
    assert [s.labels is not None for s in sources] == [True, True, True, False]
    assert all(s.gaussians is None for s in sources)


def test_listing_reads_no_frame(root, monkeypatch):
    monkeypatch.setattr("training.datasets.scannet.read_numbers", lambda *_: pytest.fail("a pose was read"))
    open_scannet(root)


def test_images(root):
    images = open_scannet(root)[0].images
    assert [image.name for image in images] == ["0", "1", "3", "4"], "a lost frame is dropped"
    image = images[2]
    k = image.intrinsics
    assert (k.fx, k.fy, k.cx, k.cy, k.width, k.height) == (30, 31, 15, 11, 32, 24)
    color, depth = image.color(), image.depth()
    assert color.dtype == np.uint8 and color.shape == (24, 32, 3)
    np.testing.assert_allclose(color[5, 5], (200, 100, 43), atol=4)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, 1.003, rtol=1e-6)
    np.testing.assert_allclose(image.world_from_camera, ALIGNMENT @ some_pose(30.0), atol=1e-9)


def test_images_at_the_color_cameras_size(root):
    image = open_scannet(root, size="color", every=2, align=False)[0].images[-1]
    assert (image.intrinsics.fx, image.intrinsics.width) == (60, 64)
    assert image.color().shape == (48, 64, 3) and image.depth().shape == (48, 64)
    np.testing.assert_allclose(image.world_from_camera, some_pose(40.0), atol=1e-9)
    assert [i.name for i in open_scannet(root, every=2)[0].images] == ["0", "4"]


def test_labels_of_20_classes(root):
    labels = open_scannet(root)[0].labels()
    assert labels.classes == tuple(NYU40_OF_SCANNET20) and len(labels.classes) == 20
    assert labels.segment.tolist() == [0, 0, 4, 4, -1, -1]
    assert labels.instance.tolist() == [0, 0, 1, 1, 2, -1]
    assert [thing.category for thing in labels.instances] == ["wall", "chair", "banana"]
    expected = VERTICES @ ALIGNMENT[:3, :3].T + ALIGNMENT[:3, 3]
    np.testing.assert_allclose(labels.points, expected, atol=1e-6)
    assert labels.points.dtype == np.float32 and labels.segment.dtype == np.int64


def test_labels_of_200_classes_go_by_id(root):
    labels = open_scannet200(root)[0].labels()
    assert labels.classes == SCANNET200
    assert labels.segment.tolist() == [0, 0, 2, 2, -1, -1]
    # a raw category that shares the id of a class is that class
    stem = root / "scans" / "scene0000_01" / "scene0000_01"
    write_json(Path(f"{stem}.aggregation.json"), {"segGroups": [{"segments": [30], "label": "chairs"}]})
    assert open_scannet200(root)[0].labels().segment.tolist() == [-1, -1, 1, 1, -1, -1]


def test_labels_ply_where_there_is_no_aggregation(root):
    (root / "scans/scene0000_01/scene0000_01.aggregation.json").unlink()
    labels = open_scannet(root)[0].labels()
    assert labels.segment.tolist() == [0, 0, 4, 4, -1, -1]
    assert (labels.instance == -1).all()
    with pytest.raises(DatasetError, match=r"aggregation\.json"):
        open_scannet200(root)[0].labels()


def test_the_real_label_map_knows_every_benchmark_class():
    folder = Path(__file__).parents[4] / "shared" / "labels"
    if not folder.is_dir():
        pytest.skip("label files of ScanNet are not there")
    from training.datasets.files import class_names
    from training.datasets.scannet import _scannet20_places, _scannet200_places

    table = folder / "scannetv2-labels.combined.tsv"
    assert class_names(folder / "scannet20_labels.txt") == tuple(NYU40_OF_SCANNET20)
    names = class_names(folder / "scannet200_labels.txt")
    places = _scannet200_places(table, names)
    assert len(names) == 200 and all(places[name] == k for k, name in enumerate(names))
    assert set(_scannet20_places(table).values()) == set(range(-1, 20))


def test_sources_travel_to_workers(root):
    source = pickle.loads(pickle.dumps(open_scannet(root)[0]))
    assert len(source.images) == 4 and source.labels().segment[0] == 0


@pytest.mark.parametrize(
    ("break_it", "use", "message"),
    [
        (lambda r: (r / "scannetv2_val.txt").write_text("scene0001_00\n"), None, "scene0001_00.*'train'.*'val'"),
        (lambda r: [(r / f"scannetv2_{s}.txt").unlink() for s in ("train", "val", "test")], None, "no split list"),
        (
            lambda r: (r / "scans/scene0000_01/scene0000_01.txt").write_text("axisAlignment = 1 2\n"),
            lambda s: s[0].images[0],
            "axisAlignment.*16 numbers",
        ),
        (
            lambda r: (r / "scans/scene0000_01/pose/1.txt").write_text("1 2 3\n"),
            lambda s: s[0].images[0],
            r"pose.1.txt.*shape",
        ),
        (
            lambda r: write_json(r / "scans/scene0000_01/scene0000_01.aggregation.json", {"groups": []}),
            lambda s: s[0].labels(),
            "malformed annotation.*segGroups",
        ),
        (
            lambda r: write_json(
                r / "scans/scene0000_01/scene0000_01_vh_clean_2.0.010000.segs.json", {"segIndices": [1]}
            ),
            lambda s: s[0].labels(),
            r"segIndices of shape \(1,\), expected \(6,\)",
        ),
        (
            lambda r: (r / "scannetv2-labels.combined.tsv").write_text("id\tname\n"),
            lambda s: s[0].labels(),
            "no column 'raw_category'",
        ),
        (
            lambda r: (r / "scans/scene0000_01/scene0000_01_vh_clean_2.ply").write_bytes(b"ply\nnot"),
            lambda s: s[0].labels(),
            "not a readable .ply",
        ),
    ],
)
def test_broken(root, break_it, use, message):
    break_it(root)
    with pytest.raises(DatasetError, match=message):
        use(open_scannet(root))


def test_bad_options(root):
    with pytest.raises(DatasetError, match="size = 'huge'"):
        open_scannet(root, size="huge")
    with pytest.raises(DatasetError, match="every = 0"):
        open_scannet(root, every=0)
    with pytest.raises(DatasetError, match="no such folder"):
        open_scannet(root / "elsewhere")
    with pytest.raises(DatasetError, match="'sofa' is no raw_category"):
        open_scannet200(root, classes=["wall", "sofa"])[0].labels()
