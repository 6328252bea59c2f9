"""What every 2D teacher looks like: images in, one dense feature map for each of its heads out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from chorus_core.io.errors import ReadError


class TeacherError(ReadError):
    """A teacher that cannot be had; the message names it, what is missing, and where it was looked for."""


@dataclass(frozen=True)
class FeatureTable:
    """The features of one image for one head: a table, and which row of it each pixel has.

    Patch teachers have a row a patch, mask-pooled ones a row a mask, so that no map of pixels x channels is ever built.

    Attributes:
        table: float [C, D].
        cells: row of each pixel, -1 where the teacher says nothing, int64 [H, W].
    """

    table: Tensor
    cells: Tensor


class Teacher(ABC):
    """A frozen 2D network whose features a 3D encoder learns to predict.

    To add one: set the attributes and write :meth:`maps`. A teacher whose features are not on a regular grid of patches
    overrides :meth:`tables` instead.

    Attributes:
        name: identifies architecture and weights; the key of the feature cache, so it must change when either does.
        heads: width of the features for each of the encoder's heads that it teaches.
        text: the text encoder whose space its "lang" head shares, as ``load_text_encoder`` names it; None without one.
        device: where it runs.
    """

    name: str
    heads: Mapping[str, int]
    text: str | None = None
    device: torch.device = torch.device("cpu")

    @abstractmethod
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps of images.

        Args:
            images: sRGB, uint8 [B, H, W, 3], on any device.

        Returns:
            For each head a regular grid over the whole image, float [B, h, w, D], on the teacher's device.
        """

    @torch.inference_mode()
    def tables(self, images: Tensor) -> dict[str, list[FeatureTable]]:
        """For each head the features of each image, as tables (on the teacher's device).

        Tables on the same grid have the same tensor of cells, by which lifting knows that they share it.

        Args:
            images: sRGB, uint8 [B, H, W, 3], on any device.
        """
        height, width = images.shape[1:3]
        cells: dict[tuple[int, int], Tensor] = {}
        found = {}
        for head, grid in self.maps(images).items():
            size = (grid.shape[1], grid.shape[2])
            if size not in cells:
                cells[size] = grid_cells(height, width, *size, device=grid.device)
            found[head] = [FeatureTable(features.flatten(0, 1), cells[size]) for features in grid]
        return found


def grid_cells(height: int, width: int, rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Which cell of a ``rows`` x ``columns`` grid over the whole image each pixel's centre lies in, int64 [H, W]."""
    v = (torch.arange(height, device=device) + 0.5) * rows / height
    u = (torch.arange(width, device=device) + 0.5) * columns / width
    return v.long()[:, None] * columns + u.long()[None, :]
