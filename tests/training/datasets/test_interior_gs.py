"""InteriorGS, on a tiny copy of the real layout, and its boxes."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import random_gaussians, write_compressed_ply, write_json, write_text
from scipy.spatial.transform import Rotation

from chorus_core.io.gaussian_ply import PlyFormatError
from training.datasets import DatasetError
from training.datasets.interior_gs import box_from_corners, open_interior_gs, smallest_box

CORNERS = np.array(list(product((-0.5, 0.5), repeat=3)))


def entry(label: str, center: tuple, size: tuple, number: int) -> dict:
    corners = CORNERS * size + center
    return {
        "ins_id": str(number),
        "label": label,
        "bounding_box": [dict(zip("xyz", map(float, c), strict=True)) for c in corners],
    }


def write_scene(root: Path, scene: str) -> None:
    gaussians = random_gaussians(600, seed=3)
    write_compressed_ply(root / scene / "3dgs_compressed.ply", gaussians)
    entries = [
        entry("table", (1, 1, 1), (2, 2, 2), 1),
        entry("cup", (1, 1, 1), (1, 1, 1), 2),
        {"ins_id": "3", "label": "wall"},
    ]
    write_json(root / scene / "labels.json", entries)
    write_json(
        root / scene / "structure.json",
        {"walls": [{"location": [[0, 2.9], [3, 2.9]], "thickness": 0.2, "height": 3.0}], "rooms": [], "holes": []},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for scene in ("0002_839955", "0001_839920"):
        write_scene(tmp_path, scene)
    return tmp_path


def test_scenes(root):
    sources = open_interior_gs(root)
    assert [(s.name, s.subset) for s in sources] == [("0001_839920", "train"), ("0002_839955", "train")]
    assert len(sources[0].images) == 0
    gaussians = sources[0].gaussians()
    torch.testing.assert_close(gaussians.means, random_gaussians(600, seed=3).means, atol=4e-3, rtol=0)


def test_labels_by_the_smallest_box(root):
    source = open_interior_gs(root)[0]
    labels = source.labels()
    assert labels.classes == ("cup", "table", "wall")
    points = source.gaussians().means.numpy()
    np.testing.assert_array_equal(labels.points, points)
    in_cup = (np.abs(points - 1) <= 0.52).all(1)
    in_table = (np.abs(points - 1) <= 1.02).all(1)
    in_wall = (np.abs(points[:, 1] - 2.9) <= 0.12) & (np.abs(points[:, 0] - 1.5) <= 1.52)
    expected = np.select([in_cup, in_table, in_wall], [0, 1, 2], -1)
    assert len(set(expected)) == 4, "every kind of point must be there"
    np.testing.assert_array_equal(labels.segment, expected)
    names = [thing.category for thing in labels.instances]
    assert names == ["table", "cup", "wall"]
    np.testing.assert_array_equal(labels.instance, np.select([in_cup, in_table, in_wall], [1, 0, 2], -1))


def test_given_classes_no_walls_and_split_lists(root):
    write_text(root / "test.txt", "0002_839955\n")
    write_text(root / "train.txt", "0001_839920\n0999_000000\n")
    sources = open_interior_gs(root, classes=["table"], splits=root, walls=False, margin=0.0)
    assert [s.subset for s in sources] == ["train", "test"]
    labels = sources[1].labels()
    assert labels.classes == ("table",) and set(labels.segment) == {-1, 0}
    assert {thing.category for thing in labels.instances} == {"table", "cup"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.01, 8), min_size=3, max_size=3),
    st.lists(st.floats(-180, 180), min_size=3, max_size=3),
    st.permutations(range(8)),
    st.integers(0, 2**31),
)
def test_a_box_is_found_whatever_the_order_of_its_corners(size, angles, order, seed):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    center = np.array([3.0, -2.0, 1.0])
    box = box_from_corners("thing", (CORNERS * size @ rotation.T + center)[list(order)])
    np.testing.assert_allclose(np.sort(box.half) * 2, np.sort(size), rtol=1e-6)
    np.testing.assert_allclose(box.axes @ box.axes.T, np.eye(3), atol=1e-6)
    local = np.random.default_rng(seed).uniform(-1, 1, size=(50, 3)) * size
    clear = (np.abs(np.abs(local) - np.array(size) / 2) > 1e-6).all(1)
    inside = (np.abs(local) <= np.array(size) / 2).all(1)
    np.testing.assert_array_equal(box.contains(local @ rotation.T + center, 0.0)[clear], inside[clear])


def test_flat_boxes():
    box = box_from_corners("carpet", CORNERS * (2, 1, 0))
    assert box.contains(np.array([[0.9, 0.4, 0.01], [0.9, 0.4, 0.05], [1.1, 0, 0]]), 0.02).tolist() == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("corners", [np.zeros((8, 3)), np.zeros((7, 3)), CORNERS * (1, 0, 0), CORNERS * np.nan])
def test_corners_of_no_box(corners):
    with pytest.raises(ValueError, match="corners"):
        box_from_corners("thing", corners)


def test_no_boxes():
    assert smallest_box(np.zeros((3, 3)), [], 0.0).tolist() == [-1, -1, -1]


def test_broken(root, caplog):
    labels = root / "0001_839920" / "labels.json"
    write_json(labels, [{"ins_id": "7", "label": "lamp", "bounding_box": [{"x": 1, "y": 2}] * 8}])
    with pytest.raises(DatasetError, match=r"labels\.json: entry 7"):
        open_interior_gs(root, classes=["lamp"])[0].labels()
    write_json(labels, [{"ins_id": "8", "label": "lamp", "bounding_box": [{"x": 1, "y": 2, "z": 3}] * 8}])
    assert (open_interior_gs(root, classes=["lamp"], walls=False)[0].labels().instance == -1).all()
    assert "1 entries whose corners are no box" in caplog.text
    write_json(labels, {})
    with pytest.raises(DatasetError, match="expected a list, got dict"):
        open_interior_gs(root, classes=["lamp"])[0].labels()
    (root / "0001_839920" / "3dgs_compressed.ply").write_bytes(b"ply\n")
    with pytest.raises(PlyFormatError):
        open_interior_gs(root)[0].gaussians()
    with pytest.raises(DatasetError, match="no scenes"):
        open_interior_gs(root / "0001_839920")
