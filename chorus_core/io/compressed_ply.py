"""Decoder of the compressed ``.ply`` that SuperSplat and PlayCanvas's splat-transform write.

Format (PlayCanvas, "Compressing Gaussian Splats", blog.playcanvas.com, December 2023, and the reader in the PlayCanvas
engine): splats in chunks of 256. Element ``chunk`` holds bounds of position, log scale and, since 2024, colour.
Element ``vertex`` holds four 32-bit words a splat, fields from the top bit down:

==================  ===========  ==================================================================================
``packed_position`` 11, 10, 11   x, y, z between the chunk's bounds
``packed_rotation`` 2, 10 x 3    index of the largest component of wxyz, then the others in order, each in
                                 [-1/sqrt(2), 1/sqrt(2)]; the largest is positive and follows from unit length
``packed_scale``    11, 10, 11   logarithms of the scales between the chunk's bounds
``packed_color``    8 x 4        red, green, blue between the chunk's bounds (or [0, 1] without), opacity in [0, 1]
==================  ===========  ==================================================================================
"""

from __future__ import annotations

import numpy as np

from chorus_core.io.errors import ReadError

CHUNK_SIZE = 256
PACKED_COLUMNS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_BOUND_COLUMNS = tuple(f"{end}_{axis}" for axis in ("{}", "scale_{}") for end in ("min", "max"))
_OTHERS = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
"""Indices of the three components that are stored, by index of the one that is not."""


class CompressedPlyError(ReadError):
    """A compressed ``.ply`` that lacks a property or whose elements do not fit together."""


def decompress(chunk: np.ndarray | None, vertex: np.ndarray) -> tuple[np.ndarray, ...]:
    """Unpack the elements ``chunk`` [ceil(N / 256)] and ``vertex`` [N], both structured arrays.

    Returns:
        means [N, 3], quats wxyz [N, 4], scales [N, 3], opacities [N], colors [N, 3], all float32.

    Raises:
        CompressedPlyError: a property or chunk is missing.
    """
    if chunk is None:
        raise CompressedPlyError("packed vertices but no element 'chunk'")
    _require(vertex, PACKED_COLUMNS, "vertex")
    bounds = [name.format(axis) for name in _BOUND_COLUMNS for axis in "xyz"]
    _require(chunk, tuple(bounds), "chunk")
    chunks_needed = -(-len(vertex) // CHUNK_SIZE)
    if len(chunk) < chunks_needed:  # some writers leave a few too many
        raise CompressedPlyError(
            f"{len(chunk)} chunks for {len(vertex)} vertices: expected {chunks_needed} or more of {CHUNK_SIZE}"
        )
    chunk_of = np.arange(len(vertex)) // CHUNK_SIZE  # [N]
    position, rotation, scale, color = (np.asarray(vertex[name], np.uint32) for name in PACKED_COLUMNS)

    means = _between(chunk, chunk_of, "{}", "xyz", _unpack_11_10_11(position))
    log_scales = _between(chunk, chunk_of, "scale_{}", "xyz", _unpack_11_10_11(scale))
    rgba = _unpack_8_8_8_8(color)
    colors = rgba[:, :3]
    if "min_r" in chunk.dtype.names:
        _require(chunk, tuple(f"{end}_{axis}" for end in ("min", "max") for axis in "rgb"), "chunk")
        colors = _between(chunk, chunk_of, "{}", "rgb", colors)
    with np.errstate(over="ignore"):
        arrays = (means, _unpack_rotation(rotation), np.exp(log_scales), rgba[:, 3], colors)
        return tuple(array.astype(np.float32) for array in arrays)


def _require(element: np.ndarray, names: tuple[str, ...], what: str) -> None:
    missing = [name for name in names if name not in element.dtype.names]
    if missing:
        raise CompressedPlyError(f"element {what!r} has no property {', '.join(missing)}")


def _between(chunk: np.ndarray, chunk_of: np.ndarray, name: str, axes: str, fraction: np.ndarray) -> np.ndarray:
    """Fractions [N, 3] of the way from each chunk's lower to its upper bound."""
    low, high = (
        np.stack([np.asarray(chunk[f"{end}_{name.format(axis)}"], np.float64) for axis in axes], axis=1)[chunk_of]
        for end in ("min", "max")
    )
    # a flat splat has a logarithm of -inf, which must not be weighed by 0
    with np.errstate(invalid="ignore"):
        return np.where(fraction < 1, low * (1.0 - fraction), 0.0) + np.where(fraction > 0, high * fraction, 0.0)


def _fraction(packed: np.ndarray, shift: int, bits: int) -> np.ndarray:
    top = (1 << bits) - 1
    return ((packed >> np.uint32(shift)) & np.uint32(top)) / float(top)


def _unpack_11_10_11(packed: np.ndarray) -> np.ndarray:
    return np.stack([_fraction(packed, 21, 11), _fraction(packed, 11, 10), _fraction(packed, 0, 11)], axis=1)


def _unpack_8_8_8_8(packed: np.ndarray) -> np.ndarray:
    return np.stack([_fraction(packed, shift, 8) for shift in (24, 16, 8, 0)], axis=1)


def _unpack_rotation(packed: np.ndarray) -> np.ndarray:
    """Quaternions wxyz [N, 4] from the index of the largest component and the other three."""
    largest = (packed >> np.uint32(30)).astype(np.int64)
    stored = np.stack([_fraction(packed, shift, 10) for shift in (20, 10, 0)], axis=1)
    stored = (stored - 0.5) * np.sqrt(2.0)  # [N, 3]
    return with_largest(largest, stored)


def with_largest(largest: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Unit quaternions [N, 4] of which the largest component, positive, is left out.

    Args:
        largest: its index [N].
        others: the other components in order [N, 3].
    """
    quats = np.empty((len(others), 4))
    np.put_along_axis(quats, _OTHERS[largest], others, axis=1)
    # rounding can push the sum of squares past 1
    rest = np.sqrt(np.maximum(0.0, 1.0 - (others**2).sum(axis=1, keepdims=True)))
    np.put_along_axis(quats, largest[:, None], rest, axis=1)
    return quats
