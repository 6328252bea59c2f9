"""Gaussians as standard 3DGS ``.ply``, and readers of SuperSplat-compressed and plain point-cloud ``.ply``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError

from chorus_core.gaussians import SH_C0, Gaussians
from chorus_core.io.atomic import atomic_path
from chorus_core.io.compressed_ply import PACKED_COLUMNS, CompressedPlyError, decompress

_POSITION = ("x", "y", "z")
_NORMAL = ("nx", "ny", "nz")
_COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALE = ("scale_0", "scale_1", "scale_2")
_ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
_COLUMNS = (*_POSITION, *_NORMAL, *_COLOR, "opacity", *_SCALE, *_ROTATION)
"""The order in which the 3DGS reference implementation writes a file without view dependence."""

_REQUIRED = tuple(name for name in _COLUMNS if name not in _NORMAL)
_EXTRA_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
_SMALLEST = float(np.finfo(np.float32).tiny)
_UNIT_TOLERANCE = 1e-6


class PlyFormatError(ValueError):
    """A ``.ply`` file that cannot be used. The message names the file, the property and the expected form."""


def save_gaussians(path: str | Path, gaussians: Gaussians, extra: Mapping[str, np.ndarray] | None = None) -> None:
    """Write Gaussians as binary little-endian 3DGS ``.ply`` (Kerbl et al. 2023), which SuperSplat and others open.

    Columns: x, y, z, nx, ny, nz (zero), f_dc_0..2, opacity (logit), scale_0..2 (log), rot_0..3 (wxyz), then
    ``extra``; all but the extra ones are float32.

    What comes back from :func:`load_gaussians`: means and unit quaternions bit for bit; colours from 0.25 up bit for
    bit, smaller ones within 2e-8 (8-bit colours stay the same 8 bits); opacities within 6e-8; scales within 3e-6 of
    their value (the file holds logarithms). The logit is kept finite: an opacity of 1 comes back as 1, an opacity or
    scale of 0 as 1.2e-38.

    Args:
        path: file to write; it appears whole or not at all.
        gaussians: on any device.
        extra: further per-Gaussian columns [N] by name (label, instance, confidence ...), of an integer type up to
            32 bits, float32 or float64.

    Raises:
        PlyFormatError: a value that the format cannot hold (non-finite, negative scale, opacity outside [0, 1]), or
            an extra column of wrong name, type or shape.
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
    ply = PlyData([PlyElement.describe(vertex, "vertex")], text=False, byte_order="<")
    with atomic_path(path) as temporary:
        ply.write(str(temporary))


def load_gaussians(path: str | Path) -> Gaussians:
    """Read a 3DGS ``.ply`` (binary or text) or a SuperSplat-compressed one; float32, on the CPU.

    View-dependent colour (``f_rest_*``, element ``sh``) and extra columns are read past. Colours are clipped to
    [0, 1], quaternions normalised (those of unit length are left bit for bit).

    Raises:
        PlyFormatError: not a ``.ply``, cut short, a property missing, or values that are no Gaussians.
        FileNotFoundError: no such file.
    """
    ply = _read(path)
    vertex = _vertex(ply, path)
    if "chunk" in ply or any(name in vertex.dtype.names for name in PACKED_COLUMNS):
        try:
            means, quats, scales, opacities, colors = decompress(ply["chunk"].data if "chunk" in ply else None, vertex)
        except CompressedPlyError as error:
            raise PlyFormatError(f"{path}: {error}") from error
    else:
        _require(vertex, _REQUIRED, path, "a 3DGS file")
        means = _columns(vertex, _POSITION)
        quats = _columns(vertex, _ROTATION)
        with np.errstate(over="ignore"):
            scales = np.exp(_columns(vertex, _SCALE, np.float64)).astype(np.float32)
        opacities = _sigmoid(np.asarray(vertex["opacity"], np.float64))
        colors = (0.5 + SH_C0 * _columns(vertex, _COLOR, np.float64)).astype(np.float32)
    arrays = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    for name, values in arrays.items():
        _require_finite(values, name, path)
    arrays["quats"] = _unit(quats, path)
    arrays["colors"] = np.clip(colors, 0.0, 1.0)
    return Gaussians(**{name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()})


def holds_gaussians(path: str | Path) -> bool:
    """Whether a ``.ply`` has anything that a plain point cloud lacks and Gaussians need, compressed or not.

    Raises:
        PlyFormatError: not a ``.ply``, or cut short.
        FileNotFoundError: no such file.
    """
    names = set(_vertex(_read(path), path).dtype.names)
    return not names.isdisjoint((*_COLOR, *_SCALE, *_ROTATION, *PACKED_COLUMNS))


def load_extra(path: str | Path) -> dict[str, np.ndarray]:
    """The per-Gaussian columns [N] of a 3DGS ``.ply`` that are not part of the standard, by name.

    Raises:
        PlyFormatError: not a ``.ply``, or cut short.
        FileNotFoundError: no such file.
    """
    vertex = _vertex(_read(path), path)
    names = [n for n in vertex.dtype.names if not _is_reserved(n)]
    return {name: np.array(vertex[name], dtype=vertex[name].dtype.newbyteorder("=")) for name in names}


def load_points(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read a plain coloured point cloud ``.ply`` with x, y, z, red, green, blue and perhaps nx, ny, nz.

    Returns:
        points in the file's frame and unit, float32 [N, 3]; colours uint8 [N, 3] (floating ones in [0, 1] are scaled);
        normals as the file has them, float32 [N, 3], or None.

    Raises:
        PlyFormatError: not a ``.ply``, cut short, a property missing, or non-finite coordinates.
        FileNotFoundError: no such file.
    """
    vertex = _vertex(_read(path), path)
    rgb = ("red", "green", "blue")
    _require(vertex, (*_POSITION, *rgb), path, "a coloured point cloud")
    points = _columns(vertex, _POSITION)
    _require_finite(points, "x, y, z", path)
    kinds = {vertex.dtype[name].kind for name in rgb}
    if kinds <= {"u", "i"}:
        colors = _columns(vertex, rgb, np.int64)
    else:
        floating = _columns(vertex, rgb, np.float64)
        _require_finite(floating, "red, green, blue", path)
        colors = np.rint(floating * 255.0).astype(np.int64)
    if colors.size and (colors.min() < 0 or colors.max() > 255):
        raise PlyFormatError(f"{path}: red, green, blue outside their range: expected uchar, or float in [0, 1]")
    normals = _columns(vertex, _NORMAL) if set(_NORMAL) <= set(vertex.dtype.names) else None
    return points, colors.astype(np.uint8), normals


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


def _read(path: str | Path) -> PlyData:
    """The file, memory-mapped where its layout lets us."""
    try:
        # "c": copy on write, so that a file without write permission opens too
        return PlyData.read(str(path), mmap="c")
    except (PlyParseError, ValueError) as error:
        # UnicodeDecodeError (a binary file of another kind) is a ValueError
        raise PlyFormatError(f"{path}: not a readable .ply: {error}") from error


def _vertex(ply: PlyData, path: str | Path) -> np.ndarray:
    if "vertex" not in ply:
        names = ", ".join(element.name for element in ply.elements) or "none"
        raise PlyFormatError(f"{path}: no element 'vertex' (elements: {names})")
    return ply["vertex"].data


def _require(vertex: np.ndarray, names: tuple[str, ...], path: str | Path, what: str) -> None:
    missing = [name for name in names if name not in vertex.dtype.names]
    if missing:
        raise PlyFormatError(
            f"{path}: not {what}: vertex has no property {', '.join(missing)} (it has {', '.join(vertex.dtype.names)})"
        )
    lists = [name for name in names if vertex.dtype[name].kind == "O"]
    if lists:
        raise PlyFormatError(f"{path}: vertex property {', '.join(lists)} is a list: expected a number")


def _require_finite(values: np.ndarray, name: str, path: str | Path) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        rows = int((~finite.reshape(len(values), -1).all(axis=1)).sum())
        raise PlyFormatError(f"{path}: {name} not finite in {rows} of {len(values)} vertices")


def _columns(vertex: np.ndarray, names: tuple[str, ...], dtype: type = np.float32) -> np.ndarray:
    return np.stack([np.asarray(vertex[name], dtype) for name in names], axis=1)  # [N, len(names)]


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


def _unit(quats: np.ndarray, path: str | Path) -> np.ndarray:
    """Quaternions of unit length; those that have it already keep every bit."""
    norm = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)  # [N, 1]
    zero = norm < 1e-12
    if zero.any():
        raise PlyFormatError(f"{path}: rot_0..3 are all zero in {int(zero.sum())} of {len(quats)} vertices")
    return np.where(np.abs(norm - 1.0) > _UNIT_TOLERANCE, quats / norm, quats).astype(np.float32)
