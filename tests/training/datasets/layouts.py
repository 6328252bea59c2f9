"""Writers of tiny data sets in their real layouts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

from chorus_core.gaussians import Gaussians


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_json(path: Path, tree: object) -> None:
    write_text(path, json.dumps(tree))


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def write_matrix(path: Path, matrix: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix)


def write_mesh(
    path: Path,
    vertices: np.ndarray,
    faces: np.ndarray = (),
    vertex_columns: dict[str, np.ndarray] | None = None,
    face_columns: dict[str, np.ndarray] | None = None,
    text: bool = False,
) -> None:
    """A binary mesh as the scanners' tools write it: coloured vertices, faces as lists of three."""
    path.parent.mkdir(parents=True, exist_ok=True)
    vertex_columns, face_columns = vertex_columns or {}, face_columns or {}
    layout = [(axis, "f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue", "alpha")]
    vertex = np.zeros(len(vertices), layout + [(n, v.dtype.str) for n, v in vertex_columns.items()])
    for k, axis in enumerate("xyz"):
        vertex[axis] = np.asarray(vertices)[:, k]
    face = np.zeros(len(faces), [("vertex_indices", "i4", (3,))] + [(n, v.dtype.str) for n, v in face_columns.items()])
    if len(faces):
        face["vertex_indices"] = faces
    for data, columns in ((vertex, vertex_columns), (face, face_columns)):
        for name, values in columns.items():
            data[name] = values
    elements = [PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]
    PlyData(elements, text=text, byte_order="<").write(str(path))


def some_pose(angle: float = 30.0) -> np.ndarray:
    """A camera somewhere, looking about horizontally in a world with z up."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", (-100, 5, angle), degrees=True).as_matrix()
    pose[:3, 3] = 1.0, -2.0, 1.5
    return pose


def random_gaussians(count: int, seed: int = 0, extent: float = 3.0) -> Gaussians:
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    quats[quats[:, 0] < 0] *= -1
    arrays = (
        rng.uniform(0, extent, size=(count, 3)),
        quats,
        np.exp(rng.uniform(-5, -2, size=(count, 3))),
        rng.uniform(size=count),
        rng.integers(0, 256, size=(count, 3)) / 255.0,
    )
    return Gaussians(*(torch.tensor(a, dtype=torch.float32) for a in arrays))


def write_compressed_ply(path: Path, gaussians: Gaussians) -> None:
    """SuperSplat's compressed form: chunks of 256 with bounds, four packed words a splat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = ["x", "y", "z", "scale_x", "scale_y", "scale_z"]
    chunks = np.zeros(-(-len(gaussians) // 256), [(f"{end}_{axis}", "f4") for end in ("min", "max") for axis in axes])
    vertex = np.zeros(len(gaussians), [(f"packed_{n}", "u4") for n in ("position", "rotation", "scale", "color")])
    values = np.concatenate([gaussians.means, np.log(gaussians.scales)], 1).astype(np.float64)
    rgba = np.concatenate([gaussians.colors, gaussians.opacities[:, None]], 1)
    quats = gaussians.quats.double().numpy()
    for start in range(0, len(values), 256):
        rows = slice(start, start + 256)
        low, high = values[rows].min(0), values[rows].max(0)
        for k, axis in enumerate(axes):
            chunks[start // 256][f"min_{axis}"], chunks[start // 256][f"max_{axis}"] = low[k], high[k]
        part = (values[rows] - low) / np.maximum(high - low, 1e-9)
        vertex["packed_position"][rows] = _words(part[:, :3], (11, 10, 11))
        vertex["packed_scale"][rows] = _words(part[:, 3:], (11, 10, 11))
    vertex["packed_color"] = _words(rgba, (8, 8, 8, 8))
    largest = np.abs(quats).argmax(1)
    quats = quats * np.sign(np.take_along_axis(quats, largest[:, None], 1))
    rest = np.array([np.delete(q, k) for q, k in zip(quats, largest, strict=True)])
    vertex["packed_rotation"] = (largest.astype(np.uint32) << 30) | _words(rest * np.sqrt(0.5) + 0.5, (10, 10, 10))
    elements = [PlyElement.describe(chunks, "chunk"), PlyElement.describe(vertex, "vertex")]
    PlyData(elements, byte_order="<").write(str(path))


def _words(fractions: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    word = np.zeros(len(fractions), np.uint32)
    for k, count in enumerate(bits):
        field = np.rint(np.clip(fractions[:, k], 0, 1) * (2**count - 1)).astype(np.uint32)
        word = (word << np.uint32(count)) | field
    return word
