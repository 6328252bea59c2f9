"""Which rows of a scene are encoded, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.encoder.inputs import ALIGNMENT
from chorus_core.encoder.outliers import inliers, lone, within_reach
from chorus_core.encoder.serialization import LARGEST_EXTENT
from chorus_core.gaussians import Gaussians
from chorus_core.io.scene import Scene, SceneError

_FEW = 0.05
_LONE_VOXELS = 100


@dataclass(frozen=True)
class Choice:
    """Rows to encode.

    Attributes:
        rows: of the scene's content, bool [N].
        left_out: how many rows of the file are not, by reason, those that the reader left out among them.
    """

    rows: Tensor
    left_out: dict[str, int]

    def __str__(self) -> str:
        """What was left out, to follow a count: empty where nothing was."""
        if not self.left_out:
            return ""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        return f", {sum(self.left_out.values())} left out ({reasons})"


def choose_rows(scene: Scene, grid_size: float, max_points: int, drop_outliers: bool = False) -> Choice:
    """Leave out what would ruin the rest.

    A few rows (one in twenty) that lie beyond the encoder's grid around the rest, 1310 m at 2 cm, are always left out:
    photometric fits have some kilometres away. Scenes so large that they are encoded in tiles may be wider than
    that; there only rows without company go.

    Args:
        scene: as read.
        grid_size: edge of the encoder's voxels, metres.
        max_points: more are encoded in tiles.
        drop_outliers: leave out, too, what is blown up or floats alone (fewer than 3 others within 100 voxels), and
            whatever lies beyond the grid.

    Raises:
        SceneError: more than a few rows lie beyond the grid, or nothing is left.
    """
    positions, left_out = scene.positions, {f"with {reason}": count for reason, count in scene.faults.items()}
    count = len(positions)
    reach = (LARGEST_EXTENT - 2 * ALIGNMENT) * grid_size
    rows = within_reach(positions, reach)
    beyond = count - int(rows.sum())
    if count > max_points and beyond and not drop_outliers:
        rows = ~_lone_beyond(positions, rows, _LONE_VOXELS * grid_size)
        beyond = count - int(rows.sum())
    elif beyond > _FEW * count and not drop_outliers:
        raise SceneError(
            f"{beyond} of {count} rows lie beyond the {reach:.0f} m that a grid of {grid_size:g} m reaches: "
            "--grid with a larger edge reaches farther, --drop-outliers leaves them out"
        )
    if beyond:
        left_out[f"beyond the grid's {reach:.0f} m"] = beyond
    if drop_outliers:
        _drop_outliers(scene, rows, _LONE_VOXELS * grid_size, left_out)
    if not rows.any():
        raise SceneError(f"nothing to encode in {len(scene.kept)} rows{Choice(rows, left_out)}")
    return Choice(rows, left_out)


def _lone_beyond(positions: Tensor, inside: Tensor, radius: float) -> Tensor:
    found = torch.zeros_like(inside)
    found[~inside] = lone(positions[~inside], radius)
    return found


def _drop_outliers(scene: Scene, rows: Tensor, radius: float, left_out: dict[str, int]) -> None:
    if isinstance(scene.content, Gaussians):
        outliers = rows & ~_spread(inliers(scene.content[rows]), rows)
        if outliers.any():
            left_out["blown up or alone for their size"] = int(outliers.sum())
            rows &= ~outliers
    alone = rows & _spread(lone(scene.positions[rows], radius), rows)
    if alone.any():
        left_out[f"with fewer than 3 others within {radius:g} m"] = int(alone.sum())
        rows &= ~alone


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """Values of the chosen rows, as values of all, False elsewhere."""
    spread = torch.zeros_like(rows)
    spread[rows] = values
    return spread
