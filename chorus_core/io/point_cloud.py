"""Coloured point clouds as ``.ply`` or ``.npz``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chorus_core.io.arrays import read_npz
from chorus_core.io.errors import ReadError
from chorus_core.io.ply import PlyFormatError, columns, float_columns, origin_of, read_ply, require, vertex_of
from chorus_core.io.scene import PointCloud, PointRows, scene_of_points

__all__ = ["PointCloud", "PointCloudError", "load_point_cloud", "read_point_rows"]

_POSITION, _NORMAL, _COLOR = ("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue")


class PointCloudError(ReadError):
    """A point cloud that cannot be used. The message names the file and the expected form."""


def load_point_cloud(path: str | Path) -> PointCloud:
    """Read a ``.ply`` with x, y, z, red, green, blue (uchar, or float in [0, 1]) and perhaps nx, ny, nz; or a ``.npz``
    with the arrays ``points`` [N, 3], ``colors`` [N, 3] (uint8, or floating in [0, 1]) and perhaps ``normals`` [N, 3].

    Normals that are zero or not finite count as unknown. Coordinates are as the file has them; what was taken off them
    before is left to :func:`chorus_core.io.any_scene.load_any_scene`.

    Raises:
        PlyFormatError, PointCloudError: not such a file, values that are no points, or coordinates that float32 would
            spoil.
        FileNotFoundError: no such file.
    """
    return scene_of_points(path, read_point_rows(path), movable=False, error=PointCloudError).content


def read_point_rows(path: str | Path) -> PointRows:
    """Decode what :func:`load_point_cloud` reads, without a look at the values of single rows.

    Raises:
        PlyFormatError, PointCloudError: not such a file.
        FileNotFoundError: no such file.
    """
    return _read_npz(Path(path)) if Path(path).suffix.lower() == ".npz" else _read_ply(path)


def _read_ply(path: str | Path) -> PointRows:
    ply = read_ply(path, ("vertex",))
    vertex = vertex_of(ply, path)
    require(vertex, (*_POSITION, *_COLOR), path, "a coloured point cloud")
    raw = columns(vertex, _COLOR, np.float64)
    integer = all(vertex.dtype[name].kind in "ui" for name in _COLOR)
    colors = raw / 255.0 if integer else raw
    if _outside_unit(colors):
        raise PlyFormatError(f"{path}: red, green, blue outside their range: expected uchar, or float in [0, 1]")
    normals = None
    if set(_NORMAL) <= set(vertex.dtype.names):
        require(vertex, _NORMAL, path, "a point cloud with normals")
        normals = columns(vertex, _NORMAL, np.float64)
    return PointRows(float_columns(vertex, _POSITION), colors, normals, origin_of(ply))


def _read_npz(path: Path) -> PointRows:
    arrays = read_npz(path, ("points", "colors"), ("normals",), PointCloudError)
    count = len(arrays["points"]) if arrays["points"].ndim else 0
    for name, values in arrays.items():
        if values.shape != (count, 3) or values.dtype.kind not in "fui":
            raise PointCloudError(f"{path}: {name} is {values.dtype} {values.shape}: expected numbers (N, 3)")
    colors = arrays["colors"]
    if colors.dtype == np.uint8:
        colors = colors / 255.0
    elif colors.dtype.kind != "f" or _outside_unit(colors):
        raise PointCloudError(f"{path}: colors are {colors.dtype}: expected uint8, or floating ones in [0, 1]")
    return PointRows(arrays["points"], colors, arrays.get("normals"))


def _outside_unit(colors: np.ndarray) -> bool:
    """Whether colours are of another range. Those that are not finite are a matter of their rows."""
    return bool(((colors < 0) | (colors > 1)).any())
