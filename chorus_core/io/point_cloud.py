"""Coloured point clouds as ``.ply`` or ``.npz``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from chorus_core.io.gaussian_ply import load_points


class PointCloudError(ValueError):
    """A point cloud that cannot be used. The message names the file and the expected form."""


@dataclass(frozen=True)
class PointCloud:
    """N coloured points in one frame with z up, on the CPU.

    Attributes:
        points: metres, float32 [N, 3].
        colors: in [0, 1], float32 [N, 3].
        normals: of any length and either sign, float32 [N, 3]; None where the file has none.
    """

    points: Tensor
    colors: Tensor
    normals: Tensor | None

    def __len__(self) -> int:
        return len(self.points)


def load_point_cloud(path: str | Path) -> PointCloud:
    """Read a ``.ply`` (see :func:`~chorus_core.io.gaussian_ply.load_points`) or a ``.npz`` with the arrays ``points``
    [N, 3], ``colors`` [N, 3] (uint8, or floating in [0, 1]) and perhaps ``normals`` [N, 3].

    Raises:
        PlyFormatError, PointCloudError: not such a file.
        FileNotFoundError: no such file.
    """
    if Path(path).suffix == ".npz":
        points, colors, normals = _read_npz(Path(path))
    else:
        points, colors, normals = load_points(path)
    if normals is not None and not (np.isfinite(normals).all() and np.linalg.norm(normals, axis=1).all()):
        raise PointCloudError(f"{path}: normals are zero or not finite in places; without any, they are estimated")
    scaled = colors.astype(np.float32) / 255.0 if colors.dtype == np.uint8 else colors.astype(np.float32)
    given = None if normals is None else torch.from_numpy(np.array(normals, np.float32))
    return PointCloud(torch.from_numpy(np.array(points, np.float32)), torch.from_numpy(scaled), given)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("points", "colors", "normals") if name in file.files}
            names = ", ".join(file.files)
    except (BadZipFile, ValueError, EOFError) as error:
        raise PointCloudError(f"{path}: not a readable .npz: {error}") from error
    if missing := [name for name in ("points", "colors") if name not in arrays]:
        raise PointCloudError(f"{path}: no array {' and '.join(missing)} (it has {names}): expected points and colors")
    count = len(arrays["points"]) if arrays["points"].ndim else 0
    for name, values in arrays.items():
        if values.shape != (count, 3) or values.dtype.kind not in "fui" or not np.isfinite(values).all():
            raise PointCloudError(f"{path}: {name} is {values.dtype} {values.shape}: expected finite numbers (N, 3)")
    colors = arrays["colors"]
    if colors.dtype != np.uint8 and (colors.dtype.kind != "f" or (count and (colors.min() < 0 or colors.max() > 1))):
        raise PointCloudError(f"{path}: colors are {colors.dtype}: expected uint8, or floating ones in [0, 1]")
    return arrays["points"], colors, arrays.get("normals")
