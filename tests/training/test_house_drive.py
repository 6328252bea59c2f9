"""The shipped sequence: a real bag, whose depth lies on the ground truth beside it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

TOPICS = {
    "/camera/color/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "/camera/depth/image_raw/compressedDepth": "sensor_msgs/msg/CompressedImage",
    "/camera/color/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/depth/camera_info": "sensor_msgs/msg/CameraInfo",
    "/odom": "nav_msgs/msg/Odometry",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "data" / "house_drive"


@pytest.fixture(scope="module")
def recorded(folder: Path) -> dict[str, list]:
    """All messages by topic."""
    found: dict[str, list] = {topic: [] for topic in TOPICS}
    with AnyReader([folder / "bag"]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == TOPICS
        for connection, _, raw in reader.messages():
            found[connection.topic].append(reader.deserialize(raw, connection.msgtype))
    return found


@pytest.fixture(scope="module")
def truth(folder: Path) -> tuple[np.ndarray, np.ndarray, dict]:
    record = json.loads((folder / "ground_truth.json").read_text())
    with np.load(folder / "ground_truth.npz") as data:
        return data["points_mm"].astype(np.float64) / 1000, data["instance"], record


def seconds(message) -> float:
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def matrix(translation, rotation) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat([rotation.x, rotation.y, rotation.z, rotation.w]).as_matrix()
    pose[:3, 3] = translation.x, translation.y, translation.z
    return pose


def test_metadata_is_what_humble_reads(folder: Path, recorded: dict[str, list]):
    """Format 8 at most: QoS profiles are text, whose policies are numbers. The counts are those of the file."""
    metadata = yaml.safe_load((folder / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["version"] <= 8
    counts = {}
    for topic in metadata["topics_with_message_count"]:
        (profile,) = yaml.safe_load(topic["topic_metadata"]["offered_qos_profiles"])
        latched = topic["topic_metadata"]["name"] == "/tf_static"
        assert (profile["history"], profile["reliability"], profile["durability"]) == (1, 1, 1 if latched else 2)
        counts[topic["topic_metadata"]["name"]] = topic["message_count"]
    assert counts == {name: len(messages) for name, messages in recorded.items()}
    assert sum(counts.values()) == metadata["message_count"]


def test_size_is_fit_to_ship(folder: Path):
    sizes = {p: p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    assert sum(sizes.values()) < 20e6
    assert (folder / "README.md").is_file()
    assert 1e6 < sizes[folder / "ground_truth.npz"] < 4e6


def test_rates_and_stamps(recorded: dict[str, list]):
    color = recorded["/camera/color/image_raw/compressed"]
    depth = recorded["/camera/depth/image_raw/compressedDepth"]
    stamps = np.array([seconds(m) for m in color])
    assert len(color) >= 270
    assert stamps[-1] - stamps[0] > 50
    np.testing.assert_allclose(np.diff(stamps), 0.2, atol=1e-3)
    assert [seconds(m) for m in depth] == stamps.tolist()
    assert len(recorded["/camera/color/camera_info"]) == len(recorded["/camera/depth/camera_info"]) == len(color)
    assert len(recorded["/odom"]) == len(recorded["/tf"]) >= 4 * (len(color) - 1)
    assert len(recorded["/tf_static"]) == 1


def test_robot_moves_like_one(recorded: dict[str, list]):
    odom = recorded["/odom"]
    stamps = np.array([seconds(m) for m in odom])
    xy = np.array([[m.pose.pose.position.x, m.pose.pose.position.y] for m in odom])
    yaw = np.unwrap([2 * np.arctan2(m.pose.pose.orientation.z, m.pose.pose.orientation.w) for m in odom])
    # Over a second, so that the millimetres of noise on single poses do not read as speed.
    lag = 20
    elapsed = stamps[lag:] - stamps[:-lag]
    assert (np.linalg.norm(xy[lag:] - xy[:-lag], axis=1) / elapsed).max() < 0.82
    assert np.rad2deg(np.abs(yaw[lag:] - yaw[:-lag]) / elapsed).max() < 61
    assert np.linalg.norm(np.diff(xy, axis=0), axis=1).max() < 0.06
    assert np.ptp(xy[:, 0]) > 12  # bedroom to kitchen


def test_tf_and_odometry_agree(recorded: dict[str, list]):
    for odom, tf in zip(recorded["/odom"][::50], recorded["/tf"][::50], strict=True):
        (transform,) = tf.transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ("odom", "base_link")
        a = matrix(transform.transform.translation, transform.transform.rotation)
        np.testing.assert_allclose(a, matrix(odom.pose.pose.position, odom.pose.pose.orientation), atol=1e-12)


def test_depth_lies_on_the_ground_truth(recorded: dict[str, list], truth):
    points, _, _ = truth
    tree = cKDTree(points)
    static = np.eye(4)
    for link in recorded["/tf_static"][0].transforms:
        static = static @ matrix(link.transform.translation, link.transform.rotation)
    poses = {round(seconds(m), 4): matrix(m.pose.pose.position, m.pose.pose.orientation) for m in recorded["/odom"]}
    rng = np.random.default_rng(0)
    k = recorded["/camera/depth/camera_info"][0].k.reshape(3, 3)
    medians = []
    for message in recorded["/camera/depth/image_raw/compressedDepth"][::15]:
        depth = cv2.imdecode(np.frombuffer(message.data.tobytes()[12:], np.uint8), cv2.IMREAD_UNCHANGED) / 1000.0
        assert depth.shape == (240, 320)
        rows, columns = np.nonzero((depth > 0.3) & (depth < 4.5))
        assert len(rows) > 0.3 * depth.size
        pick = rng.choice(len(rows), 800)
        v, u = rows[pick], columns[pick]
        z = depth[v, u]
        camera = np.column_stack([(u - k[0, 2]) / k[0, 0] * z, (v - k[1, 2]) / k[1, 1] * z, z])
        pose = poses[round(seconds(message), 4)] @ static
        distance, _ = tree.query(camera @ pose[:3, :3].T + pose[:3, 3])
        medians.append(np.median(distance))
    assert np.median(medians) < 0.02
    assert max(medians) < 0.03


def test_colours_are_rgb_and_exposed(recorded: dict[str, list]):
    images = [cv2.imdecode(m.data, cv2.IMREAD_COLOR) for m in recorded["/camera/color/image_raw/compressed"][::30]]
    assert all(i.shape == (240, 320, 3) for i in images)
    assert all(60 < i.mean() < 200 for i in images)


def test_ground_truth_is_consistent(truth):
    points, instance, record = truth
    assert len(points) == len(instance) > 100_000
    counts = Counter(instance.tolist())
    assert all(counts.get(k, 0) == entry["points"] for k, entry in enumerate(record["instances"]))
    assert {e["label"] for e in record["instances"]} == set(record["labels"])
    assert set(record["held_back_labels"]) < set(record["labels"])
    assert {"chandelier", "exercise ball", "weight bench", "tablet"} <= set(record["held_back_labels"])
    seen = {e["label"] for e in record["instances"] if e["points"] > 50}
    assert len(seen) >= 34
    index = {e["name"]: k for k, e in enumerate(record["instances"])}
    floor = points[instance == index["FloorB_01_001"]]
    assert np.abs(floor[:, 2]).max() < 0.02
    bed = points[instance == index["Bed_01_001"]]
    np.testing.assert_array_less(bed.min(0) - 0.02, bed.max(0))
    assert (bed.min(0) > [-7.25, 0.95, -0.05]).all() and (bed.max(0) < [-5.1, 3.1, 1.3]).all()


def test_split_named_beside_it_is_the_one_training_uses(truth, shared: Path):
    pytest.importorskip("trimesh")
    from training.scenes.assets import AssetLibrary, Split

    if not (shared / "assets").is_dir():
        pytest.skip("no asset folder")
    library = AssetLibrary(shared / "assets")
    trained = Split.make(library).trained_categories(library)
    _, _, record = truth
    expected = [c for c in record["labels"] if c.replace(" ", "_") not in trained]
    assert record["held_back_labels"] == expected
