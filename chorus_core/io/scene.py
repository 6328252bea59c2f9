"""From rows as a file has them to a scene that can be used: checked, at the origin, in float32.

Every form of file is decoded to :class:`GaussianRows` or :class:`PointRows` by its own reader and comes to be a
:class:`Scene` here, so that all of them treat bad rows and large coordinates alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.io.errors import ReadError

logger = logging.getLogger(__name__)

FARTHEST_EXACT = 8192.0
"""Metres from the origin up to which float32 keeps a coordinate to half a millimetre."""

LARGEST_SCALE = 1e7
"""Metres; no surface has a Gaussian of a larger standard deviation."""

_BULK = 1e4  # metres around the median in which the lower corner is looked for
_UNIT_TOLERANCE = 1e-6


class SceneError(ReadError):
    """Rows that make no scene. The message names the file, how many rows there are, and what is wrong with them."""


@dataclass(frozen=True)
class PointCloud:
    """N coloured points in one frame with z up, on the CPU.

    Attributes:
        points: metres, float32 [N, 3].
        colors: in [0, 1], float32 [N, 3].
        normals: of any length and either sign, zero where unknown, float32 [N, 3]; None where none is known.
    """

    points: Tensor
    colors: Tensor
    normals: Tensor | None

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Tensor | slice) -> PointCloud:
        """The points selected by a mask, index tensor or slice."""
        normals = None if self.normals is None else self.normals[index]
        return PointCloud(self.points[index], self.colors[index], normals)


@dataclass(frozen=True)
class GaussianRows:
    """Gaussians as a file has them: decoded, not checked.

    Attributes:
        means: metres, float32 or, where the file has more digits, float64 [N, 3].
        quats: wxyz of any length [N, 4].
        scales: standard deviations, metres [N, 3].
        opacities: [N].
        colors: RGB, perhaps outside [0, 1] [N, 3].
        origin: taken off the means when the file was written, metres, float64 [3].
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    colors: np.ndarray
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True)
class PointRows:
    """Coloured points as a file has them: decoded, not checked.

    Attributes:
        points: metres, float32 or, where the file has more digits, float64 [N, 3].
        colors: in [0, 1] [N, 3].
        normals: [N, 3] or None.
        origin: taken off the points when the file was written, metres, float64 [3].
    """

    points: np.ndarray
    colors: np.ndarray
    normals: np.ndarray | None
    origin: np.ndarray = field(default_factory=lambda: np.zeros(3))


@dataclass(frozen=True)
class Scene:
    """What can be used of a file.

    Attributes:
        content: its good rows, in the order of the file.
        origin: world position of the content's (0, 0, 0), metres, float64 [3].
        kept: which rows of the file the content holds, bool [rows].
        faults: how many rows were left out, by reason; a row with several counts for the first.
    """

    content: Gaussians | PointCloud
    origin: np.ndarray
    kept: Tensor
    faults: Mapping[str, int]

    @property
    def positions(self) -> Tensor:
        """Centres or points relative to the origin, metres [N, 3]."""
        return self.content.points if isinstance(self.content, PointCloud) else self.content.means


def scene_of_gaussians(
    what: str | Path,
    rows: GaussianRows,
    drop_bad: bool = False,
    movable: bool = True,
    error: type[ReadError] = SceneError,
) -> Scene:
    """Check Gaussians and move them near the origin. Colours are clipped to [0, 1], quaternions normalised (those of
    unit length keep every bit).

    Args:
        what: name of the file.
        rows: as decoded.
        drop_bad: leave out rows that are no Gaussians, and count them.
        movable: take an origin off where float32 would lose digits. Otherwise float64 that would lose is refused.
        error: what to raise.

    Raises:
        error: there are rows that are no Gaussians and they are not to be dropped, or digits would be lost.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        norm = np.linalg.norm(rows.quats.astype(np.float64), axis=1, keepdims=True)  # [N, 1]
        bad = {
            "a position that is not finite": ~_finite(rows.means),
            "a scale that is not finite": ~np.isfinite(rows.scales).all(axis=1),
            "a scale below 0": (rows.scales < 0).any(axis=1),
            f"a scale above {LARGEST_SCALE:g} m": (rows.scales > LARGEST_SCALE).any(axis=1),
            "a rotation that is not finite": ~np.isfinite(norm[:, 0]),
            "a rotation of zeros": norm[:, 0] < 1e-12,
            "an opacity not in [0, 1]": ~((rows.opacities >= 0) & (rows.opacities <= 1)),
            "a colour that is not finite": ~np.isfinite(rows.colors).all(axis=1),
        }
    kept, faults = _good_rows(what, bad, len(rows.means), "Gaussians", drop_bad, error)
    means, origin = _moved(what, rows.means[kept], movable, error)
    quats, norm = rows.quats[kept], norm[kept]
    quats = np.where(np.abs(norm - 1.0) > _UNIT_TOLERANCE, quats / norm, quats)
    arrays = (means, quats, rows.scales[kept], rows.opacities[kept], np.clip(rows.colors[kept], 0.0, 1.0))
    return Scene(Gaussians(*map(_tensor, arrays)), rows.origin + origin, torch.from_numpy(kept), faults)


def scene_of_points(
    what: str | Path,
    rows: PointRows,
    drop_bad: bool = False,
    movable: bool = True,
    error: type[ReadError] = SceneError,
) -> Scene:
    """Check coloured points and move them near the origin, see :func:`scene_of_gaussians`. Normals that are zero or not
    finite count as unknown."""
    bad = {
        "a position that is not finite": ~_finite(rows.points),
        "a colour that is not finite": ~np.isfinite(rows.colors).all(axis=1),
    }
    kept, faults = _good_rows(what, bad, len(rows.points), "points", drop_bad, error)
    points, origin = _moved(what, rows.points[kept], movable, error)
    normals = None if rows.normals is None else _known_normals(rows.normals[kept])
    cloud = PointCloud(_tensor(points), _tensor(rows.colors[kept]), None if normals is None else _tensor(normals))
    return Scene(cloud, rows.origin + origin, torch.from_numpy(kept), faults)


def near_origin(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take off the lower corner of the bulk along axes where it lies so far out that float32 would lose digits.

    The corner is rounded down to whole metres, so that voxels stay where the world's grid has them.

    Args:
        positions: metres, finite [N, 3].

    Returns:
        positions less the origin [N, 3], and the origin, float64 [3]; the same and zero where nothing is lost.
    """
    origin = np.zeros(3)
    if not len(positions):
        return positions, origin
    for axis in range(3):
        along = positions[:, axis].astype(np.float64)
        middle = np.partition(along, len(along) // 2)[len(along) // 2]  # one of them, so that the bulk is not empty
        if abs(middle) > FARTHEST_EXACT:
            origin[axis] = np.floor(along[np.abs(along - middle) <= _BULK].min())
    return (positions.astype(np.float64) - origin if origin.any() else positions), origin


def _moved(
    what: str | Path, positions: np.ndarray, movable: bool, error: type[ReadError]
) -> tuple[np.ndarray, np.ndarray]:
    near, origin = near_origin(positions)
    if not origin.any():
        return near, origin
    if movable:
        if positions.dtype in (np.float16, np.float32):
            step = float(np.spacing(np.abs(origin).astype(positions.dtype).max()))
            logger.warning("%s: so far from its origin the file has coordinates in steps of %.3g m only", what, step)
        return near, origin
    if positions.dtype not in (np.float16, np.float32):
        raise error(
            f"{what}: coordinates around {' '.join(f'{v:.0f}' for v in origin)} m, which float32 does not hold to a "
            "millimetre: load_any_scene takes an origin off them"
        )
    return positions, np.zeros(3)


def _good_rows(
    what: str | Path, bad: Mapping[str, np.ndarray], count: int, kind: str, drop_bad: bool, error: type[ReadError]
) -> tuple[np.ndarray, dict[str, int]]:
    kept, faults = np.ones(count, bool), {}
    for reason, rows in bad.items():
        if found := int((rows & kept).sum()):
            faults[reason] = found
            kept &= ~rows
    if faults and not drop_bad:
        reasons = ", ".join(f"{number} with {reason}" for reason, number in faults.items())
        raise error(
            f"{what}: {sum(faults.values())} of {count} rows are no {kind} ({reasons}): "
            "--drop-bad (drop_bad=True) leaves them out"
        )
    return kept, faults


def _finite(positions: np.ndarray) -> np.ndarray:
    """Rows that are finite numbers in float32, too."""
    return (np.abs(positions) <= np.finfo(np.float32).max).all(axis=1)


def _known_normals(normals: np.ndarray) -> np.ndarray | None:
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(normals.astype(np.float64), axis=1)
    known = (length > 1e-12) & (length < 1e30)
    return np.where(known[:, None], normals, 0.0) if known.any() else None


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32, order="C"))
