"""Scenes of our own making: generated rooms, prepared folders, recordings; and opening by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from layouts import random_gaussians, some_pose, write_image, write_json, write_matrix

from chorus_core.io.gaussian_ply import save_gaussians
from chorus_core.io.sequence import SequenceError
from training.datasets import DATASETS, DatasetError, open_dataset
from training.datasets.images import SequenceImages
from training.prepared import InstanceInfo, PreparedScene, SceneInfo, save_prepared

CAMERA = {"fx": 30.0, "fy": 31.0, "cx": 15.5, "cy": 11.5, "width": 32, "height": 24}


def write_views(folder: Path, count: int = 4) -> None:
    """The numbered RGB-D layout."""
    for k in range(count):
        write_image(folder / "color" / f"{k}.jpg", np.full((24, 32, 3), (200, 100, 20 * k), np.uint8))
        write_image(folder / "depth" / f"{k}.png", np.full((24, 32), 1500 + k, np.uint16))
        write_matrix(folder / "pose" / f"{k}.txt", some_pose(10.0 * k))
    write_json(folder / "intrinsics.json", CAMERA)


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    pytest.importorskip("embreex")
    from training.scenes.instance import Instance
    from training.scenes.scene_file import save_scene

    things = [Instance("wall", "w", structure=True), Instance("chair", "chair_7", "red"), Instance("apple", "a_1")]
    instance = np.resize([0, 1, 2, -1], 50)
    for stem in ("val_000_00000", "train_000_00001", "train_000_00000"):
        save_scene(tmp_path / stem, random_gaussians(50), instance, things, {"voxel_size": 0.03, "views": 4})
    write_json(tmp_path / "trained_categories.json", ["chair", "wall"])
    write_views(tmp_path / "train_000_00000")
    return tmp_path


def test_generated(rooms):
    sources = open_dataset("generated", rooms)
    assert [(s.name, s.subset, len(s.images)) for s in sources] == [
        ("train_000_00000", "train", 4), ("train_000_00001", "train", 0), ("val_000_00000", "val", 0),
    ]  # fmt: skip
    source = sources[0]
    assert source.voxel_size == 0.03
    torch.testing.assert_close(source.gaussians().means, random_gaussians(50).means, atol=6e-4, rtol=0)
    labels = source.labels()
    assert labels.classes == ("apple", "chair", "wall")
    assert labels.segment[:4].tolist() == [2, 1, 0, -1] and labels.instance[:4].tolist() == [0, 1, 2, -1]
    assert labels.instances[1] == InstanceInfo("chair", "chair_7", "red")
    np.testing.assert_array_equal(labels.points, source.gaussians().means.numpy())


def test_generated_counts_through_the_given_classes_sorted(rooms):
    labels = open_dataset("generated", rooms, classes=["wall", "chair"])[0].labels()
    assert labels.classes == ("chair", "wall") and labels.segment[:4].tolist() == [1, 0, -1, -1]


def test_generated_surface(rooms):
    np.savez_compressed(
        rooms / "train_000_00000" / "surface.npz",
        points_mm=np.array([[1000, 0, 0], [0, 2000, 0]], np.int16),
        instance=np.array([2, -1], np.int16),
    )
    labels = open_dataset("generated", rooms, surface=True)[0].labels()
    np.testing.assert_allclose(labels.points, [[1, 0, 0], [0, 2, 0]])
    assert labels.segment.tolist() == [0, -1] and labels.instance.tolist() == [2, -1]


def test_generated_broken(rooms):
    write_json(rooms / "train_000_00001.json", {"facts": {}, "instances": []})
    with pytest.raises(DatasetError, match=r"00001\.json: facts\.voxel_size"):
        open_dataset("generated", rooms)
    with pytest.raises(DatasetError, match="no scenes"):
        open_dataset("generated", rooms / "train_000_00000")


def prepared(name: str) -> PreparedScene:
    label = torch.arange(20) % 3 - 1
    info = SceneInfo(name, 0.02, ("chair", "wall"), (InstanceInfo("chair"),), {}, {})
    return PreparedScene(info, random_gaussians(20), torch.nn.functional.normalize(torch.ones(20, 3)), label, label, {})


def test_scenesplat(tmp_path):
    save_prepared(tmp_path / "val" / "b", prepared("b"))
    save_prepared(tmp_path / "train_grid1.0cm_chunk6x6_stride3x3" / "a_0", prepared("a_0"))
    for path in (tmp_path / "train_grid1.0cm_chunk6x6_stride3x3" / "a_0").glob("s*.json"):
        path.unlink()  # as in the releases
    (tmp_path / "metadata" / "x").mkdir(parents=True)
    first, second = open_dataset("scenesplat", tmp_path)
    assert [(first.name, first.subset), (second.name, second.subset)] == [("a_0", "train"), ("b", "val")]
    assert (first.voxel_size, second.voxel_size) == (0.0, 0.02) and len(first.images) == 0
    torch.testing.assert_close(first.gaussians().means, random_gaussians(20).means)
    assert first.labels().classes == () and second.labels().classes == ("chair", "wall")
    assert open_dataset("scenesplat", tmp_path, classes=["x", "y"])[0].labels().classes == ("x", "y")
    assert second.labels().segment.tolist() == (np.arange(20) % 3 - 1).tolist()
    with pytest.raises(DatasetError, match="no scenes"):
        open_dataset("scenesplat", tmp_path / "val")


def test_recording_of_rgbd(tmp_path):
    write_views(tmp_path / "drive", 5)
    (source,) = open_dataset("recording", tmp_path / "drive", every=2, subset="val")
    assert (source.name, source.subset, source.labels, source.gaussians) == ("drive", "val", None, None)
    images = list(source.images)
    assert [i.name for i in images] == ["000000", "000002", "000004"]
    # asked for in another order, each still gives its own pixels
    for image, number in reversed(list(zip(images, (0, 2, 4), strict=True))):
        np.testing.assert_allclose(image.depth(), 1.5 + number / 1000, rtol=1e-6)
        np.testing.assert_allclose(image.color()[3, 3], (200, 100, 20 * number), atol=5)
        np.testing.assert_allclose(image.world_from_camera, some_pose(10.0 * number), atol=1e-12)
    assert images[0].intrinsics.fx == 30 and len(source.images[1:]) == 2 and source.images[-1].name == "000004"
    assert len(pickle.loads(pickle.dumps(source)).images) == 3


def test_a_sequence_in_order_is_decoded_once(tmp_path):
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    write_views(tmp_path, 3)
    from chorus_core.io.rgbd import open_sequence

    images = SequenceImages(Counting(open_sequence(tmp_path)))
    for image in images:
        image.color(), image.depth()
    assert Counting.reads == 3


def test_recording_of_posed_images(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((24, 32, 3), np.uint8))
    camera = {"fl_x": 30.0, "cx": 16, "cy": 12, "w": 32, "h": 24}
    frame = {"file_path": "a", "transform_matrix": np.eye(4).tolist()}
    write_json(tmp_path / "transforms.json", camera | {"frames": [frame]})
    (source,) = open_dataset("recording", tmp_path, name="mine")
    assert source.name == "mine" and source.images[0].color().shape == (24, 32, 3)
    np.testing.assert_array_equal(source.images[0].world_from_camera, np.diag([1.0, -1, -1, 1]))


def test_recording_of_gaussians(tmp_path):
    save_gaussians(tmp_path / "room.ply", random_gaussians(7))
    (source,) = open_dataset("recording", tmp_path / "room.ply")
    assert source.name == "room" and len(source.images) == 0 and len(source.gaussians()) == 7


def test_recording_broken(tmp_path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        open_dataset("recording", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="subset = 'training'"):
        open_dataset("recording", tmp_path, subset="training")
    with pytest.raises(SequenceError, match="unknown layout"):
        len(open_dataset("recording", tmp_path)[0].images)


def test_every_name_has_a_line_and_opens(tmp_path):
    for name, line in DATASETS.items():
        assert line and "\n" not in line
        with pytest.raises(ValueError, match=str(tmp_path)):
            sources = open_dataset(name, tmp_path)
            len(sources[0].images)  # a recording looks at its folder when asked for images


def test_unknown_names_and_options(tmp_path):
    with pytest.raises(DatasetError, match=r"'kitti': expected one of scannet, .*recording"):
        open_dataset("kitti", tmp_path)
    with pytest.raises(DatasetError, match=r"'scannet': no option 'stride'; it has splits, label_map, every"):
        open_dataset("scannet", tmp_path, stride=3)


def test_images_of_the_wrong_kind(tmp_path):
    from chorus_core.io.images import ImageError
    from training.datasets.images import read_color, read_depth

    cv2.imwrite(str(tmp_path / "grey16.png"), np.zeros((4, 4), np.uint16))
    cv2.imwrite(str(tmp_path / "grey8.png"), np.full((4, 4), 7, np.uint8))
    assert read_color(tmp_path / "grey8.png").shape == (4, 4, 3)
    with pytest.raises(ImageError, match=r"grey16\.png"):
        read_color(tmp_path / "grey16.png")
    with pytest.raises(ImageError, match=r"grey8\.png"):
        read_depth(tmp_path / "grey8.png")
