"""Every reader of the project with a small input of its own and what must hold of a result that reads as whole.

For ``tests/test_mutations.py`` and ``benchmarks/mutate.py``.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from plyfile import PlyData, PlyElement

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode does not find them
sys.path.append(str(Path(__file__).parent / "io"))
sys.path.append(str(Path(__file__).parent / "semantics"))
import folder_layouts
import recordings
import spz_writer
from model_readers import (
    check_finite,
    check_tensors,
    read_checkpoint,
    read_enet,
    read_released,
    read_saved_state,
    read_sentence_encoder,
    read_teacher,
    read_text_side,
    rehashed,
    write_checkpoint,
    write_enet,
    write_state,
    write_teacher,
    write_text_side,
    write_weights,
)
from rosbags.rosbag2 import StoragePlugin
from rvl import rvl
from sentence_folder import write_sentence_encoder

from chorus_core import config
from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import load_any_scene
from chorus_core.io.camera_info import intrinsics_from_info
from chorus_core.io.errors import ReadError, reading
from chorus_core.io.feature_file import load_features, save_features
from chorus_core.io.gaussian_ply import save_gaussians
from chorus_core.io.images import color_to_rgb, decode_compressed, decode_image, depth_to_metres
from chorus_core.io.map_file import ModelReference, load_map, save_map
from chorus_core.io.rgbd import open_sequence
from chorus_core.io.scene import PointCloud
from chorus_core.io.scene_folder import save_scene
from chorus_core.io.sequence import read_image
from chorus_core.io.splat_file import RECORD
from chorus_core.io.weights import read_weights
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.vocabulary import Vocabulary, load_vocabulary


@dataclass(frozen=True)
class Reader:
    """A reader of outside data.

    Attributes:
        name: in tables.
        write: makes a small, whole input in an empty folder.
        read: reads the folder; raises a documented error, or AssertionError where a result is not what it must be.
        mutated: pattern of the files that are damaged.
        share: of the mutations, beside the other readers'; small for slow ones.
    """

    name: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    mutated: str = "*"
    share: float = 1.0


# ---- what must hold ----


def check_gaussians(gaussians: Gaussians) -> None:
    g = gaussians
    for field in ("means", "quats", "scales", "opacities", "colors"):
        values = getattr(g, field)
        assert values.dtype == torch.float32 and len(values) == len(g), f"{field} is {values.dtype} {values.shape}"
        check_finite(values, field)
    assert len(g) == 0 or (g.quats.double().norm(dim=1) - 1).abs().max() < 1e-3, "quaternions are not of unit length"
    assert (g.scales >= 0).all() and ((g.opacities >= 0) & (g.opacities <= 1)).all(), "scales or opacities out of range"


def check_scene(path: Path) -> None:
    """With bad rows left out, then without: what is refused the second time must be whole the first."""
    for drop_bad in (True, False):
        scene = load_any_scene(path, drop_bad)
        check_finite(scene.origin, "origin")
        assert int(scene.kept.sum()) == len(scene.content), "rows are neither read nor left out"
        if isinstance(scene.content, Gaussians):
            check_gaussians(scene.content)
        else:
            check_points(scene.content)


def check_points(cloud: PointCloud) -> None:
    for values in (cloud.points, cloud.colors, *([] if cloud.normals is None else [cloud.normals])):
        assert values.shape == (len(cloud), 3) and values.dtype == torch.float32
        check_finite(values, "points, colours or normals")
    assert ((cloud.colors >= 0) & (cloud.colors <= 1)).all(), "colours out of range"


def check_sequence(path: Path) -> None:
    sequence = open_sequence(path)
    count = 0
    for frame in sequence:
        count += 1
        k = frame.intrinsics
        assert frame.color.shape == (k.height, k.width, 3) and frame.depth.shape == (k.height, k.width)
        assert np.isfinite(frame.depth).all() and (frame.depth >= 0).all(), "depth out of range"
        check_finite(k.matrix, "camera matrix")
        assert 0 < k.fx < 1e30 and 0 < k.fy < 1e30
        assert np.abs(frame.world_from_camera[:3, :3] @ frame.world_from_camera[:3, :3].T - np.eye(3)).max() < 2e-3
    assert count + sequence.dropped["damaged"] == len(sequence), "frames are neither read nor counted as damaged"


def check_pixels(image: np.ndarray) -> None:
    assert image.dtype in (np.uint8, np.uint16, np.float32) and 0 < image.size <= 3 << 25, "image out of range"


# ---- inputs ----


def some_gaussians(count: int = 60) -> Gaussians:
    rng = np.random.default_rng(0)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    arrays = (rng.normal(size=(count, 3)), quats, np.exp(rng.uniform(-5, -2, (count, 3))), rng.uniform(size=count),
              rng.uniform(size=(count, 3)))  # fmt: skip
    return Gaussians(*(torch.tensor(a, dtype=torch.float32) for a in arrays))


def write_eth3d(folder: Path) -> None:
    folder_layouts.write_tum(folder)
    (folder / "calibration.txt").write_text("30 31 15.5 11.5\n")


def write_twelve_scenes(folder: Path) -> None:
    folder_layouts.write_seven_scenes(folder)
    k = "30 0 15.5 0 0 31 11.5 0 0 0 1 0 0 0 0 1"
    sizes = "".join(
        f"m_{kind}{side} = {n}\n" for kind in ("color", "depth") for side, n in (("Width", 32), ("Height", 24))
    )
    (folder / "info.txt").write_text(
        f"m_versionNumber = 4\n{sizes}m_depthShift = 1000\n"
        f"m_calibrationColorIntrinsic = {k}\nm_calibrationDepthIntrinsic = {k}\n"
    )


def write_replica(folder: Path) -> None:
    (folder / "room").mkdir()
    folder_layouts.write_replica(folder / "room")


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    color = cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    depth = rng.integers(0, 9000, (48, 64), np.uint16)
    for name, image in (
        ("a.png", color), ("a.jpg", color), ("a.ppm", color), ("a.tiff", color),
        ("d.png", depth), ("d.pgm", depth), ("d.tiff", depth), ("f.tiff", depth.astype(np.float32)),
    ):  # fmt: skip
        cv2.imwrite(str(folder / name), image)


def read_images(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        check_pixels(read_image(path))


def write_compressed_depth(folder: Path) -> None:
    depth = np.random.default_rng(0).integers(1, 9000, (24, 32), np.uint16)
    png = cv2.imencode(".png", depth)[1].tobytes()
    (folder / "16UC1").write_bytes(struct.pack("<iff", 0, 0, 0) + png)
    (folder / "32FC1").write_bytes(struct.pack("<iff", 0, 10100.0, -1009.0) + png)
    (folder / "rvl").write_bytes(rvl(np.where(depth < 4000, depth, 0)))


def read_compressed_depth(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        form = {"rvl": "16UC1; compressedDepth rvl"}.get(path.name, f"{path.name}; compressedDepth")
        depth = depth_to_metres(decode_compressed(form, path.read_bytes()))
        check_pixels(depth)
        assert np.isfinite(depth).all() and (depth >= 0).all()


def write_message(kind: str, message: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / "message").write_bytes(bytes(recordings.STORE.serialize_cdr(message, kind)))


def read_message(kind: str, check: Callable[[Any], None]) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        with reading(kind):
            message = recordings.STORE.deserialize_cdr((folder / "message").read_bytes(), kind)
        check(message)

    return read


def check_image_message(message: Any) -> None:
    m = message
    image = color_to_rgb(decode_image(m.encoding, m.height, m.width, m.step, m.is_bigendian, m.data), m.encoding)
    assert image.shape == (m.height, m.width, 3) and image.dtype == np.uint8


def check_info_message(message: Any) -> None:
    k = intrinsics_from_info(message, True, (32, 24))
    check_finite(k.matrix, "camera matrix")
    assert (k.width > 0) and (k.height > 0)


def write_compressed_ply(folder: Path) -> None:
    rng = np.random.default_rng(0)
    axes = ("x", "y", "z", "scale_x", "scale_y", "scale_z")
    chunk = np.zeros(
        1, [(f"{end}_{axis}", "f4") for group in (axes[:3], axes[3:]) for end in ("min", "max") for axis in group]
    )
    for axis, (low, high) in zip(axes, [(-1, 1)] * 3 + [(-5, -2)] * 3, strict=True):
        chunk[f"min_{axis}"], chunk[f"max_{axis}"] = low, high
    vertex = np.zeros(60, [(f"packed_{name}", "u4") for name in ("position", "rotation", "scale", "color")])
    for name in vertex.dtype.names:
        vertex[name] = rng.integers(0, 2**32, 60)
    elements = [PlyElement.describe(chunk, "chunk"), PlyElement.describe(vertex, "vertex")]
    PlyData(elements, byte_order="<").write(str(folder / "scene.ply"))


def write_point_ply(text: bool) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        vertex = np.zeros(
            40, [(n, "f4") for n in ("x", "y", "z", "nx", "ny", "nz")] + [(n, "u1") for n in ("red", "green", "blue")]
        )
        for name in vertex.dtype.names:
            vertex[name] = rng.integers(1, 255, 40)
        PlyData([PlyElement.describe(vertex, "vertex")], text=text).write(str(folder / "scene.ply"))

    return write


def write_npz(folder: Path) -> None:
    rng = np.random.default_rng(0)
    points, colors, normals = (rng.uniform(0.1, 1, (40, 3)).astype(np.float32) for _ in range(3))
    np.savez_compressed(folder / "scene.npz", points=points, colors=colors, normals=normals)


def write_splat(folder: Path) -> None:
    rng = np.random.default_rng(0)
    records = np.zeros(40, RECORD)
    records["mean"], records["scale"] = rng.normal(size=(40, 3)), rng.uniform(0, 0.1, (40, 3))
    records["rgba"], records["rotation"] = rng.integers(0, 256, (40, 4)), rng.integers(0, 100, (40, 4))
    (folder / "scene.splat").write_bytes(records.tobytes())


def write_spz(version: int) -> Callable[[Path], Any]:
    return lambda folder: spz_writer.write(folder / "scene.spz", spz_writer.random_values(60), version)


def write_survey(folder: Path) -> None:
    """Earth-centred points in double precision, with a comment that is no ASCII."""
    rng = np.random.default_rng(0)
    types = [(n, "f8") for n in ("x", "y", "z")] + [(n, "u1") for n in ("red", "green", "blue")]
    vertex = np.zeros(40, types)
    for name, center in zip(vertex.dtype.names, (4146000.5, 613000.25, -4791000.75, 9, 9, 9), strict=True):
        vertex[name] = center + rng.integers(0, 9, 40)
    PlyData([PlyElement.describe(vertex, "vertex")], byte_order="<").write(str(folder / "scene.ply"))
    content = (folder / "scene.ply").read_bytes()
    comments = "comment Vermessung Gebäude\ncomment origin 1 2 3\n".encode()
    (folder / "scene.ply").write_bytes(content.replace(b"element", comments + b"element", 1))


def read_scene_file(folder: Path) -> None:
    check_scene(next(folder.iterdir()))


def write_scene_folder(folder: Path) -> None:
    save_scene(folder, some_gaussians(), segment=np.zeros(60, np.int64), normal=np.ones((60, 3), np.float32))


def write_map(folder: Path) -> None:
    gaussians = some_gaussians()
    labelled = LabelledMap(
        gaussians,
        torch.randn(60, 8).half(),
        torch.zeros(60, dtype=torch.int64),
        torch.ones(60),
        Vocabulary(("a", "b")),
        1.0,
    )
    save_map(folder / "map.ply", labelled, ModelReference("chorus_mini", "0" * 64))


def read_map(folder: Path) -> None:
    labelled, _ = load_map(folder / "map.ply")
    check_gaussians(labelled.gaussians)
    count = len(labelled.gaussians)
    assert (
        labelled.features.ndim == 2
        and len(labelled.features) == len(labelled.labels) == len(labelled.confidence) == count
    )
    check_finite(labelled.features.float(), "features")
    check_finite(labelled.confidence, "confidence")
    assert isinstance(labelled.stamp, int)
    assert ((labelled.labels >= -1) & (labelled.labels < len(labelled.vocabulary))).all(), "labels out of range"


def write_features(folder: Path) -> None:
    save_features(folder / "a.safetensors", torch.randn(40, 8), torch.ones(40, dtype=torch.bool), {"model": "tiny"})


def read_features(folder: Path) -> None:
    features, kept, facts = load_features(folder / "a.safetensors")
    assert features.ndim == 2 and kept.shape == (len(features),) and isinstance(facts, dict)
    assert features.dtype == torch.float16


def write_config(folder: Path) -> None:
    import yaml

    (folder / "config.yaml").write_text(yaml.safe_dump(config.as_dict(config.Config())))


def read_config(folder: Path) -> None:
    read = config.load(folder / "config.yaml")
    for option in config.options(config.Config):
        value: Any = read
        for name in option.name.split("."):
            value = getattr(value, name)
        assert type(value) is option.type, option.name
        if option.type is float:
            check_finite(value, option.name)


def write_training_scene(folder: Path) -> None:
    from training.scenes.instance import Instance
    from training.scenes.scene_file import save_scene as save_training_scene

    instances = [Instance("chair", "model"), Instance("wall", "made:wall", structure=True)]
    save_training_scene(folder / "scene", some_gaussians(), np.zeros(60, np.int16), instances, {"seed": 1})


def read_training_scene(folder: Path) -> None:
    from training.scenes.scene_file import load_scene as load_training_scene

    scene = load_training_scene(folder / "scene")
    check_gaussians(scene.gaussians)
    assert scene.instance.shape == (len(scene.gaussians),)
    assert scene.instance.max() < len(scene.instances), "instances out of range"


def write_prepared(folder: Path) -> None:
    write_scene_folder(folder)
    np.save(folder / "lang_feat.npy", np.ones((50, 6), np.float16))
    np.save(folder / "lang_feat_index.npy", (np.arange(60) % 51 - 1).astype(np.int32))
    tree = {"name": "room", "classes": ["wall"], "instances": [{"category": "wall"}]}
    (folder / "scene.json").write_text(json.dumps(tree))


def read_prepared(folder: Path) -> None:
    from training.prepared import load_prepared

    scene = load_prepared(folder)
    check_gaussians(scene.gaussians)
    for features in scene.features.values():
        assert features.index.shape == (len(scene.gaussians),)
        assert features.index.max() < len(features.table) and features.index.min() >= -1, "index out of range"


def folder_reader(name: str, write: Callable[[Path], Any], mutated: str, inner: str = ".") -> Reader:
    return Reader(name, write, lambda folder: check_sequence(folder / inner), mutated)


def weights_reader(name: str, write: Callable[[Path], Any]) -> Reader:
    return Reader(name, write, lambda folder: check_tensors(read_weights(next(folder.iterdir()))))


def bag(storage: StoragePlugin) -> Callable[[Path], Any]:
    return lambda folder: recordings.with_tf(recordings.with_images()).write(folder / "bag", storage)


def all_readers() -> tuple[Reader, ...]:
    """In the order of the table."""
    stamp = recordings.START
    image = recordings.raw_image(stamp, "rgb8", recordings.color_of(1))
    planar = recordings.raw_image(stamp, "nv12", np.full((recordings.HEIGHT * 3 // 2, recordings.WIDTH), 99, np.uint8))
    planar.height = recordings.HEIGHT
    jpeg = cv2.imencode(".jpg", recordings.color_of(1))[1].tobytes()

    def check_compressed(message: Any) -> None:
        check_pixels(color_to_rgb(decode_compressed(message.format, message.data)))

    image_type, compressed_type, info_type = recordings.IMAGE, recordings.COMPRESSED_IMAGE, recordings.CAMERA_INFO
    return (
        folder_reader("TUM folder", folder_layouts.write_tum, "*.txt"),
        folder_reader("ETH3D folder", write_eth3d, "*.txt"),
        folder_reader("numbered folder", folder_layouts.write_numbered, "*.[tj][xs]*"),
        folder_reader("7-Scenes folder", folder_layouts.write_seven_scenes, "*.txt"),
        folder_reader("12-Scenes folder", write_twelve_scenes, "*.txt"),
        folder_reader("ScanNet folder", folder_layouts.write_scannet, "*.txt"),
        folder_reader("Replica folder", write_replica, "*.[tj][xs]*", "room"),
        Reader("image file", write_images, read_images),
        Reader("compressedDepth", write_compressed_depth, read_compressed_depth),
        Reader("Image", write_message(image_type, image), read_message(image_type, check_image_message)),
        Reader("Image, NV12", write_message(image_type, planar), read_message(image_type, check_image_message)),
        Reader(
            "CompressedImage",
            write_message(compressed_type, recordings.compressed_image(stamp, "jpeg", jpeg)),
            read_message(compressed_type, check_compressed),
        ),
        Reader(
            "CameraInfo",
            write_message(info_type, recordings.camera_info(stamp)),
            read_message(info_type, check_info_message),
        ),
        Reader("bag, mcap", bag(StoragePlugin.MCAP), lambda folder: check_sequence(folder / "bag")),
        Reader("bag, sqlite3", bag(StoragePlugin.SQLITE3), lambda folder: check_sequence(folder / "bag")),
        Reader("3DGS .ply", lambda folder: save_gaussians(folder / "scene.ply", some_gaussians()), read_scene_file),
        Reader("compressed .ply", write_compressed_ply, read_scene_file),
        Reader("point .ply", write_point_ply(False), read_scene_file),
        Reader("point .ply, text", write_point_ply(True), read_scene_file),
        Reader("point .npz", write_npz, read_scene_file),
        Reader("survey .ply", write_survey, read_scene_file),
        Reader(".splat", write_splat, read_scene_file),
        Reader(".spz, gzip", write_spz(3), read_scene_file),
        Reader(".spz, zstd", write_spz(4), read_scene_file),
        Reader(".npy folder", write_scene_folder, check_scene),
        Reader("saved map", write_map, read_map),
        Reader("model folder", write_checkpoint, read_checkpoint),
        Reader("model folder, new hash", write_checkpoint, lambda folder: read_checkpoint(rehashed(folder))),
        Reader("released .pth", write_weights(".pth"), read_released, share=0.2),
        weights_reader(".pth weights", write_weights(".pth")),
        weights_reader(".pth weights, before 1.6", write_weights(".pth", legacy=True)),
        weights_reader(".safetensors weights", write_weights(".safetensors")),
        Reader("state of a run", write_state, read_saved_state),
        Reader("ENet weights", write_enet, read_enet, share=0.2),
        Reader("embedded teacher", write_teacher, lambda folder: read_teacher(rehashed(folder))),
        Reader("sentence encoder", write_sentence_encoder, read_sentence_encoder),
        Reader("text side", write_text_side, read_text_side),
        Reader("feature file", write_features, read_features),
        Reader(
            "vocabulary",
            lambda folder: (folder / "words.txt").write_text("# things\nchair\ntable lamp\nWand\n"),
            lambda folder: load_vocabulary(folder / "words.txt"),
        ),
        Reader("configuration", write_config, read_config),
        Reader("training scene", write_training_scene, read_training_scene),
        Reader("prepared scene", write_prepared, read_prepared),
    )


def files_of(reader: Reader, folder: Path) -> list[Path]:
    """The files of its input that are damaged, by name."""
    return sorted(path for path in folder.rglob(reader.mutated) if path.is_file())


def documented(error: BaseException) -> bool:
    """Whether an error is one that a reader may end in: one of the project's own, or an OSError that names a file."""
    if isinstance(error, OSError) and error.filename is not None:
        return True
    own = isinstance(error, ReadError) or type(error).__module__.split(".")[0] in (
        "chorus_core",
        "chorus_ros",
        "training",
    )
    return own and isinstance(error, ValueError) and "\n" not in str(error) and len(str(error)) < 2000
