"""Annotated meshes: triangles with columns, groups of segments, and points sampled on the surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from training.datasets.base import DatasetError

_TRIANGLES = {"face": {"vertex_indices": 3, "vertex_index": 3}}


@dataclass(frozen=True)
class Mesh:
    """Triangles with further columns.

    Attributes:
        vertices: metres, float32 [V, 3].
        faces: places in ``vertices``, int64 [F, 3]; F = 0 where the file has none.
        vertex_columns: further values of each vertex by name [V].
        face_columns: further values of each face by name [F].
    """

    vertices: np.ndarray
    faces: np.ndarray
    vertex_columns: Mapping[str, np.ndarray]
    face_columns: Mapping[str, np.ndarray]


def read_mesh(path: Path) -> Mesh:
    """A triangle mesh of a ``.ply`` file with its columns of numbers.

    Raises:
        DatasetError: not a readable ``.ply`` of triangles with x, y, z.
    """
    try:
        ply = PlyData.read(str(path), mmap="c", known_list_len=_TRIANGLES)
    except (OSError, PlyParseError, ValueError) as error:
        raise DatasetError(f"{path}: not a readable .ply of triangles ({error})") from error
    names = {element.name: element.data.dtype.names for element in ply.elements}
    if missing := [name for name in "xyz" if name not in names.get("vertex", ())]:
        raise DatasetError(f"{path}: no vertex property {missing[0]!r}; elements are {names}")
    vertex = ply["vertex"].data
    vertices = np.stack([np.asarray(vertex[axis], np.float32) for axis in "xyz"], axis=1)
    face = ply["face"].data if "face" in ply else None
    faces = _faces(path, face, len(vertices))
    return Mesh(vertices, faces, _columns(vertex), {} if face is None else _columns(face))


def assign_groups(segments: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Which group each vertex belongs to, int64 [V], -1 = none; of several groups the smallest has it.

    Args:
        segments: segment of each vertex [V].
        groups: segments of each group.
    """
    unique, inverse, counts = np.unique(segments, return_inverse=True, return_counts=True)
    places = [np.flatnonzero(np.isin(unique, np.asarray(group))) for group in groups]
    sizes = [int(counts[place].sum()) for place in places]
    group_of = np.full(len(unique), -1, np.int64)
    for group in sorted(range(len(groups)), key=lambda g: -sizes[g]):
        group_of[places[group]] = group
    return group_of[inverse.reshape(len(segments))]


def vertex_majority(faces: np.ndarray, labels: np.ndarray, vertices: int) -> np.ndarray:
    """Label of each vertex that most of its faces have, int64 [V], -1 = no face; the smaller of two equally common.

    Args:
        faces: [F, 3].
        labels: of each face, >= 0 [F].
        vertices: how many there are.
    """
    result = np.full(vertices, -1, np.int64)
    if not len(faces):
        return result
    width = int(labels.max()) + 1
    keys, counts = np.unique(faces.reshape(-1).astype(np.int64) * width + np.repeat(labels, 3), return_counts=True)
    order = np.lexsort((-keys, counts))  # the last write of a vertex is its most common, then its smallest, label
    result[keys[order] // width] = keys[order] % width
    return result


def sample_surface(mesh: Mesh, spacing: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The vertices, and random points on the triangles, one for each ``spacing`` x ``spacing`` metres on average.

    Returns:
        points, float32 [M, 3], and for each the vertex nearest to it in its triangle's barycentric coordinates, [M].
    """
    corners = mesh.vertices.astype(np.float64)[mesh.faces]  # [F, 3, 3]
    sides = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2
    counts = np.floor(area / spacing**2 + rng.random(len(area))).astype(np.int64)
    face = np.repeat(np.arange(len(area)), counts)
    root, along = np.sqrt(rng.random(len(face))), rng.random(len(face))
    weights = np.stack([1 - root, root * (1 - along), root * along], axis=1)  # uniform on the triangle
    points = np.einsum("mc,mcd->md", weights, corners[face])
    nearest = mesh.faces[face, weights.argmax(axis=1)]
    return (
        np.concatenate([mesh.vertices, points.astype(np.float32)]),
        np.concatenate([np.arange(len(mesh.vertices)), nearest]),
    )


def _faces(path: Path, face: np.ndarray | None, vertices: int) -> np.ndarray:
    if face is None or not len(face):
        return np.zeros((0, 3), np.int64)
    name = next((n for n in ("vertex_indices", "vertex_index") if n in face.dtype.names), None)
    if name is None:
        raise DatasetError(f"{path}: faces without vertex_indices; they have {face.dtype.names}")
    try:
        faces = np.stack(face[name]).astype(np.int64) if face[name].dtype == object else face[name].astype(np.int64)
    except ValueError as error:
        raise DatasetError(f"{path}: faces of different lengths, expected triangles") from error
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.min() < 0 or faces.max() >= vertices:
        raise DatasetError(f"{path}: faces of shape {faces.shape} up to {faces.max()} of {vertices} vertices")
    return faces


def _columns(data: np.ndarray) -> dict[str, np.ndarray]:
    numbers = [n for n in data.dtype.names if data.dtype[n].kind in "iuf" and n not in ("x", "y", "z")]
    return {name: np.asarray(data[name]) for name in numbers}
