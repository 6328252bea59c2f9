"""The views behind a generated scene on disk: an RGB-D folder any reader opens, instance images, labelled surface."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from chorus_core.frames import RgbdFrame
from chorus_core.io.arrays import read_npz
from chorus_core.io.atomic import atomic_path
from training.scenes.label import LabelView

SURFACE = "surface.npz"
_SURFACE_CELL = 0.02
"""Metres between points of the ground-truth surface."""


def save_views(folder: Path, frames: Sequence[RgbdFrame], truth: Sequence[LabelView]) -> None:
    """Write what the sensor delivered and what was really there.

    ``color/N.jpg``, ``depth/N.png`` (uint16 millimetres), ``pose/N.txt`` (the noisy ``world_from_camera``) and
    ``intrinsics.json`` are the layout of ``chorus_core.io.folders.open_numbered_folder``; ``instance/N.png`` (uint16,
    instance + 1, 0 = none) is noise-free, and so is ``surface.npz`` (``points_mm`` int16 [M, 3], ``instance`` int16
    [M]), written last.
    """
    for name in ("color", "depth", "pose", "instance"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for k, (frame, view) in enumerate(zip(frames, truth, strict=True)):
        bgr = cv2.cvtColor(frame.color, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "color" / f"{k}.jpg"), bgr, (cv2.IMWRITE_JPEG_QUALITY, 95))
        _write_uint16(folder / "depth" / f"{k}.png", np.rint(frame.depth * 1000))
        _write_uint16(folder / "instance" / f"{k}.png", view.instance + 1)
        np.savetxt(folder / "pose" / f"{k}.txt", frame.world_from_camera, fmt="%.7f")
    k = frames[0].intrinsics
    camera = {"fx": k.fx, "fy": k.fy, "cx": k.cx, "cy": k.cy, "width": k.width, "height": k.height}
    (folder / "intrinsics.json").write_text(json.dumps(camera), encoding="utf-8")
    points, instance = labelled_surface(truth)
    with atomic_path(folder / SURFACE) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, points_mm=np.rint(points * 1000).astype(np.int16), instance=instance.astype(np.int16))


def load_surface(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points (metres, float32 [M, 3]) and instance (int64 [M]) of ``surface.npz``."""
    data = read_npz(folder / SURFACE, ("points_mm", "instance"))
    return data["points_mm"].astype(np.float32) / 1000, data["instance"].astype(np.int64)


def load_instances(folder: Path) -> list[np.ndarray]:
    """Instance images int32 [H, W] in order of their numbers, -1 = none."""
    paths = sorted((folder / "instance").glob("*.png"), key=lambda p: int(p.stem))
    return [cv2.imread(str(p), cv2.IMREAD_UNCHANGED).astype(np.int32) - 1 for p in paths]


def labelled_surface(truth: Sequence[LabelView], stride: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """All labelled pixels of noise-free views as points, one a cell of 2 cm: float32 [M, 3], instance int32 [M]."""
    points, instances = [], []
    for view in truth:
        v, u = np.nonzero((view.depth > 0) & (view.instance >= 0))
        kept = (v % stride == 0) & (u % stride == 0)
        v, u = v[kept], u[kept]
        z, k = view.depth[v, u], view.intrinsics
        camera = np.stack([(u - k.cx) / k.fx * z, (v - k.cy) / k.fy * z, z], axis=1)  # [P, 3]
        points.append(camera @ view.world_from_camera[:3, :3].T + view.world_from_camera[:3, 3])
        instances.append(view.instance[v, u])
    cloud, instance = np.concatenate(points).astype(np.float32), np.concatenate(instances)
    cell = np.floor(cloud / _SURFACE_CELL).astype(np.int64) + (1 << 20)
    key = (cell[:, 0] << 21 | cell[:, 1]) << 21 | cell[:, 2]  # one number sorts far faster than a row
    _, first = np.unique(key, return_index=True)
    return cloud[first], instance[first]


def _write_uint16(path: Path, values: np.ndarray) -> None:
    cv2.imwrite(str(path), np.clip(values, 0, 65535).astype(np.uint16), (cv2.IMWRITE_PNG_COMPRESSION, 1))
