"""The AWS RoboMaker small house as a Scene, and the labelled surface that a drive through it has seen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from chorus_core.io.documents import read_json
from chorus_core.io.errors import reading
from training.scenes import primitives
from training.scenes.assets import AssetError, load_glb
from training.scenes.instance import Instance
from training.scenes.label import LabelView
from training.scenes.render import PointLight, Scene, merge, pixel_rays

CEILING_HEIGHT = 3.0  # metres; the world itself has none


def load_house(folder: Path, texture_size: int = 512) -> tuple[Scene, list[str]]:
    """The house with a ceiling, in its world frame, and the name of every instance.

    Args:
        folder: holds ``scene.json`` and ``models/``.

    Raises:
        AssetError: the scene file is missing or lacks a field.
    """
    path = folder / "scene.json"
    if not path.is_file():
        raise AssetError(f"{path}: expected the scene file of the house")
    record = read_json(path, error=AssetError)
    with reading(path, AssetError):
        entries = [(e["name"], e["label"], e["model"], folder / e["glb"], e["matrix"]) for e in record["instances"]]
        lights = [_light(entry) for entry in record["lights"]]
    meshes = {glb: load_glb(glb, texture_size) for glb in {e[3] for e in entries}}
    parts = [(meshes[glb], np.asarray(matrix, float)) for _, _, _, glb, matrix in entries]
    instances = [
        Instance(label, model, structure=label in ("wall", "floor", "ceiling")) for _, label, model, _, _ in entries
    ]
    corners = np.concatenate([(m.triangles @ t[:3, :3].T + t[:3, 3]).reshape(-1, 3) for m, t in parts])
    (x0, y0, _), (x1, y1, _) = corners.min(0), corners.max(0)
    h = CEILING_HEIGHT
    white = primitives.plain_texture((0.93, 0.93, 0.91), np.random.default_rng(0))
    ceiling = primitives.quad([[x0, y0, h], [x0, y1, h], [x1, y1, h], [x1, y0, h]], white, 2.0)
    parts.append((ceiling, np.eye(4)))
    instances.append(Instance("ceiling", "made:ceiling", structure=True))
    unchanged = np.tile(np.eye(3), (len(parts), 1, 1))
    scene = merge(parts, instances, unchanged, lights, np.array([0.32, 0.33, 0.35]))
    scene.background = (0.62, 0.74, 0.9)  # the sky, through the gap above the balcony's wall
    return scene, [e[0] for e in entries] + ["Ceiling"]


def _light(entry: dict) -> PointLight:
    """A Gazebo light as a point light, a little warm; spots lose their cone."""
    warm = np.array([1.08, 1.0, 0.88])
    return PointLight(np.asarray(entry["pose"][:3], np.float32), (1.5 * warm * entry["diffuse"][:3]).astype(np.float32))


@dataclass
class SurfaceBuilder:
    """The surface that was really seen, one labelled point a voxel.

    Points of the same voxel and instance are averaged; where several instances share a voxel, the one seen by most
    pixels has it.
    """

    voxel: float = 0.02
    max_depth: float = 5.0
    _keys: list[np.ndarray] = field(default_factory=list, repr=False)
    _values: list[np.ndarray] = field(default_factory=list, repr=False)

    def add(self, view: LabelView) -> None:
        """Take in a noise-free view."""
        rays = pixel_rays(view.intrinsics)
        depth, instance = view.depth.reshape(-1), view.instance.reshape(-1)
        use = (depth > 0.3) & (depth < self.max_depth) & (instance >= 0)
        pose = view.world_from_camera
        points = (rays[use] * depth[use, None]) @ pose[:3, :3].T + pose[:3, 3]
        index = np.floor(points / self.voxel).astype(np.int64)
        key = self._pack(np.column_stack([index, instance[use]]))
        self._keys.append(key)
        self._values.append(np.column_stack([points, np.ones(len(points))]))
        if len(self._keys) > 24:
            self._merge()

    def _pack(self, columns: np.ndarray) -> np.ndarray:
        x, y, z, instance = (columns + np.array([1 << 14, 1 << 14, 1 << 14, 0])).T
        return ((x << 15 | y) << 15 | z) << 10 | instance

    def _merge(self) -> None:
        """Sum what is of the same voxel and instance."""
        if not self._keys:
            raise ValueError("no view was added")
        values = np.concatenate(self._values)
        unique, where = np.unique(np.concatenate(self._keys), return_inverse=True)
        self._keys = [unique]
        self._values = [np.stack([np.bincount(where, v, len(unique)) for v in values.T], axis=1)]

    def finish(self, min_pixels: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """Points in metres float64 [N, 3] and instance int64 [N], in the order of their voxels."""
        self._merge()
        key, values = self._keys[0], self._values[0]
        voxel = key >> 10
        order = np.lexsort((-values[:, 3], voxel))
        first = np.concatenate([[True], np.diff(voxel[order]) > 0])
        best = order[first]
        best = best[values[best, 3] >= min_pixels]
        return values[best, :3] / values[best, 3:], key[best] & 0x3FF


def save_ground_truth(
    folder: Path, points: np.ndarray, instance: np.ndarray, instances: Sequence[Instance], names: Sequence[str],
    trained: frozenset[str],
) -> dict:  # fmt: skip
    """Write ``ground_truth.npz`` (int16 millimetres, uint8 instance) and ``ground_truth.json``; returns the latter."""
    labels = sorted({i.category for i in instances})
    counts = np.bincount(instance, minlength=len(instances))
    record = {
        "frame": "odom",
        "points": "ground_truth.npz: points_mm int16 [N, 3] millimetres, instance uint8 [N], index into instances",
        "labels": labels,
        "held_back_labels": [c for c in labels if c.replace(" ", "_") not in trained],
        "instances": [
            {"name": n, "label": i.category, "model": i.object_id, "points": int(c)}
            for n, i, c in zip(names, instances, counts, strict=True)
        ],
    }
    temporary = folder / "ground_truth.npz.tmp"
    with temporary.open("wb") as f:
        np.savez_compressed(f, points_mm=np.rint(points * 1000).astype(np.int16), instance=instance.astype(np.uint8))
    temporary.replace(folder / "ground_truth.npz")
    temporary = folder / "ground_truth.json.tmp"
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "ground_truth.json")
    return record
