"""Gaussians as standard 3DGS ``.ply``, and a reader of SuperSplat-compressed ones."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement

from chorus_core.gaussians import SH_C0, Gaussians
from chorus_core.io.atomic import atomic_path
from chorus_core.io.compressed_ply import PACKED_COLUMNS, CompressedPlyError, decompress
from chorus_core.io.ply import PlyFormatError, columns, float_columns, origin_of, read_ply, require, vertex_of
from chorus_core.io.scene import GaussianRows, scene_of_gaussians

_POSITION = ("x", "y", "z")
_NORMAL = ("nx", "ny", "nz")
_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
_RGB = ("red", "green", "blue")
_SCALE = ("scale_0", "scale_1", "scale_2")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_COLUMNS = (*_POSITION, *_NORMAL, *_COLOR, "opacity", *_SCALE, *_ROTATION)
"""The order in which the 3DGS reference implementation writes a file without view dependence."""

_EXTRA_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
_SMALLEST = float(np.finfo(np.float32).tiny)


def save_gaussians(
    path: str | Path,
    gaussians: Gaussians,
    extra: Mapping[str, np.ndarray] | None = None,
    origin: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
) -> None:
    """Write Gaussians as binary little-endian 3DGS ``.ply`` (Kerbl et al. 2023), which SuperSplat and others open.

    Columns: x, y, z, nx, ny, nz (zero), f_dc_0..2, opacity (logit), scale_0..2 (log), rot_0..3 (wxyz), then
    ``extra``; all but the extra ones are float32.

    What comes back from :func:`load_gaussians`: means and unit quaternions bit for bit; colours above 0.25 bit for
    bit, smaller ones within 2e-8 (8-bit colours stay the same 8 bits); opacities within 6e-8; scales within 3e-6 of
    their value (the file holds logarithms). The logit is kept finite: an opacity of 1 comes back as 1, an opacity or
    scale of 0 as 1.2e-38.

    Args:
        path: file to write; it appears whole or not at all.
        gaussians: on any device.
        extra: further per-Gaussian columns [N] by name (label, instance, confidence ...), of an integer type up to
            32 bits, float32 or float64.
        origin: world position of the means' (0, 0, 0), metres [3]; kept as ``comment origin x y z`` if not zero.

    Raises:
        PlyFormatError: a value that the format cannot hold (non-finite, negative scale, opacity outside [0, 1]), or
            an extra column of wrong name, type or shape.
        OSError: the disk is full, or the like.
    """
    content = gaussians_as_ply(gaussians, extra, origin)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def gaussians_as_ply(
    gaussians: Gaussians,
    extra: Mapping[str, np.ndarray] | None = None,
    origin: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0),
) -> bytes:
    """What :func:`save_gaussians` writes.

    Raises:
        PlyFormatError: as there.
    """
    extra_columns = {name: _checked_extra(name, values, len(gaussians)) for name, values in (extra or {}).items()}
    means, quats, scales, opacities, colors = (_checked(gaussians, name) for name in _FIELDS)
    layout = [(name, "<f4") for name in _COLUMNS]
    layout += [(name, values.dtype.newbyteorder("<")) for name, values in extra_columns.items()]
    vertex = np.zeros(len(gaussians), dtype=layout)  # [N]
    _set_columns(vertex, _POSITION, means)
    _set_columns(vertex, _COLOR, (colors.astype(np.float64) - 0.5) / SH_C0)
    vertex["opacity"] = _logit(opacities)
    _set_columns(vertex, _SCALE, np.log(np.maximum(scales.astype(np.float64), _SMALLEST)))
    _set_columns(vertex, _ROTATION, quats)
    for name, values in extra_columns.items():
        vertex[name] = values
    comments = [f"origin {' '.join(repr(float(value)) for value in origin)}"] if np.any(origin) else []
    buffer = io.BytesIO()
    PlyData([PlyElement.describe(vertex, "vertex")], text=False, byte_order="<", comments=comments).write(buffer)
    return buffer.getvalue()


def load_gaussians(path: str | Path) -> Gaussians:
    """Read a 3DGS ``.ply`` (binary or text) or a SuperSplat-compressed one; float32, on the CPU.

    Discs of 2DGS come with a scale of 0 along their normal; colours may be red, green, blue instead of harmonics.
    View-dependent colour (``f_rest_*``, element ``sh``) and extra columns are read past. Colours are clipped to [0, 1],
    quaternions normalised (those of unit length are left bit for bit). Coordinates are as the file has them; what was
    taken off them before is left to :func:`chorus_core.io.any_scene.load_any_scene`.

    Raises:
        PlyFormatError: not a ``.ply``, cut short, a property missing, values that are no Gaussians, or coordinates
            that float32 would spoil.
        FileNotFoundError: no such file.
    """
    return scene_of_gaussians(path, read_gaussian_rows(path), movable=False, error=PlyFormatError).content


def read_gaussian_rows(path: str | Path) -> GaussianRows:
    """Decode what :func:`load_gaussians` reads, without a look at the values.

    Raises:
        PlyFormatError: not a ``.ply``, cut short, or a property missing.
        FileNotFoundError: no such file.
    """
    ply = read_ply(path, ("chunk", "vertex"))
    vertex = vertex_of(ply, path)
    if "chunk" in ply or any(name in vertex.dtype.names for name in PACKED_COLUMNS):
        try:
            return GaussianRows(*decompress(ply["chunk"].data if "chunk" in ply else None, vertex), origin_of(ply))
        except CompressedPlyError as error:
            raise PlyFormatError(f"{path}: {error}") from error
    # 2DGS (Huang et al. 2024) has discs: two scales, and none along the third axis, the normal
    scale = _SCALE[:2] if _SCALE[2] not in vertex.dtype.names and _SCALE[1] in vertex.dtype.names else _SCALE
    # nerfstudio's --ply-color-mode rgb
    color = _RGB if set(_RGB) <= set(vertex.dtype.names) and _COLOR[0] not in vertex.dtype.names else _COLOR
    require(vertex, (*_POSITION, *color, "opacity", *scale, *_ROTATION), path, "a 3DGS file")
    with np.errstate(over="ignore", invalid="ignore"):  # rows are looked at later
        scales = np.exp(columns(vertex, scale, np.float64)).astype(np.float32)
        return GaussianRows(
            means=float_columns(vertex, _POSITION),
            quats=columns(vertex, _ROTATION),
            scales=np.pad(scales, ((0, 0), (0, 3 - len(scale)))),
            opacities=_sigmoid(np.asarray(vertex["opacity"], np.float64)),
            colors=_unit_rgb(vertex, path) if color is _RGB else _from_harmonics(vertex),
            origin=origin_of(ply),
        )


def _from_harmonics(vertex: np.ndarray) -> np.ndarray:
    return (0.5 + SH_C0 * columns(vertex, _COLOR, np.float64)).astype(np.float32)  # [N, 3]


def _unit_rgb(vertex: np.ndarray, path: str | Path) -> np.ndarray:
    if any(vertex.dtype[name].kind != "u" or vertex.dtype[name].itemsize != 1 for name in _RGB):
        raise PlyFormatError(f"{path}: red, green, blue of Gaussians: expected uchar")
    return columns(vertex, _RGB) / np.float32(255.0)  # [N, 3]


def holds_gaussians(path: str | Path) -> bool:
    """Whether a ``.ply`` has anything that a plain point cloud lacks and Gaussians need, compressed or not.

    Raises:
        PlyFormatError: not a ``.ply``, or cut short.
        FileNotFoundError: no such file.
    """
    names = set(vertex_of(read_ply(path, ("vertex",)), path).dtype.names)
    return not names.isdisjoint((*_COLOR, *_SCALE, *_ROTATION, *PACKED_COLUMNS))


def load_origin(path: str | Path) -> np.ndarray:
    """World position of the file's (0, 0, 0), metres, float64 [3]; zero unless its header says otherwise.

    Raises:
        PlyFormatError: not a ``.ply``, or cut short.
        FileNotFoundError: no such file.
    """
    return origin_of(read_ply(path, ("vertex",)))


def load_extra(path: str | Path) -> dict[str, np.ndarray]:
    """The per-Gaussian columns [N] of a 3DGS ``.ply`` that are not part of the standard, by name.

    Raises:
        PlyFormatError: not a ``.ply``, or cut short.
        FileNotFoundError: no such file.
    """
    vertex = vertex_of(read_ply(path, ("vertex",)), path)
    names = [n for n in vertex.dtype.names if not _is_reserved(n)]
    return {name: np.array(vertex[name], dtype=vertex[name].dtype.newbyteorder("=")) for name in names}


_FIELDS = ("means", "quats", "scales", "opacities", "colors")


def _checked(gaussians: Gaussians, name: str) -> np.ndarray:
    values = getattr(gaussians, name).detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise PlyFormatError(f"Gaussians.{name} has non-finite values: expected finite ones")
    if name == "scales" and (values < 0).any():
        raise PlyFormatError(f"Gaussians.scales has {values.min():g}: expected metres >= 0")
    if name == "opacities" and ((values < 0) | (values > 1)).any():
        raise PlyFormatError("Gaussians.opacities has values outside [0, 1]")
    return values


def _checked_extra(name: str, values: np.ndarray, count: int) -> np.ndarray:
    values = np.asarray(values)
    if _is_reserved(name) or not name.isascii() or not name.isidentifier():
        raise PlyFormatError(f"extra column {name!r}: expected an ASCII identifier that is no 3DGS property")
    if values.shape != (count,):
        raise PlyFormatError(f"extra column {name!r} has shape {values.shape}: expected ({count},)")
    if values.dtype.str[1:] not in _EXTRA_TYPES:
        expected = ", ".join(str(np.dtype(t)) for t in _EXTRA_TYPES)
        raise PlyFormatError(f"extra column {name!r} is {values.dtype}: expected one of {expected}")
    return values


def _is_reserved(name: str) -> bool:
    return name in _COLUMNS or name in PACKED_COLUMNS or name.startswith("f_rest_")


def _set_columns(vertex: np.ndarray, names: tuple[str, ...], values: np.ndarray) -> None:
    for index, name in enumerate(names):
        vertex[name] = values[:, index]


def _logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) in float64, kept finite by clipping to [1.2e-38, 1 - 1.1e-16]."""
    p = np.clip(probability.astype(np.float64), _SMALLEST, 1.0 - 2.0**-53)
    return np.log(p) - np.log1p(-p)


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (1.0 / (1.0 + np.exp(-logit))).astype(np.float32)
