"""The encoder as others use it: Gaussians or points in, one feature vector each out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chorus_core.encoder.checkpoint import read_model
from chorus_core.encoder.inputs import POINT_CHANNELS, gaussian_channels, point_channels, shortest_axes, voxelize
from chorus_core.encoder.model import ChorusModel
from chorus_core.encoder.tiles import tiles
from chorus_core.gaussians import Gaussians


class ChorusEncoder:
    """A Chorus model ready to encode scenes of any size.

    Args:
        model: in evaluation mode.
        description: what came with the checkpoint (its text side, calibration ...).
        basis: tensors of the compact feature space, see :class:`chorus_core.semantics.relevancy.FeatureBasis`.
        device: where it runs.
    """

    def __init__(
        self,
        model: ChorusModel,
        description: dict[str, Any] | None = None,
        basis: dict[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.description = description or {}
        self.basis = {name: tensor.to(self.device) for name, tensor in (basis or {}).items()}

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, device: torch.device | str = "cpu") -> ChorusEncoder:
        """Load a shipped model by name, a model folder, or a released checkpoint file.

        Raises:
            CheckpointError: missing, damaged, or of another architecture (the keys are named).
        """
        model, description, basis = read_model(name_or_path)
        return cls(model, description, basis, device)

    def encode(
        self,
        gaussians: Gaussians,
        head: str | None = "lang",
        grid_size: float | None = None,
        max_points: int = 500_000,
        halo: float = 0.8,
    ) -> Tensor:
        """Features of each Gaussian.

        A model of the point variant reads centres, colours and shortest axes (the normals of a map's discs).

        Args:
            gaussians: N of them, in any frame with z up.
            head: teacher space to project to; None gives the upcast features.
            grid_size: edge of the encoder's voxels, metres; the model's own by default. A map made at a coarser
                voxel size is best encoded at that size.
            max_points: larger scenes are encoded in tiles of at most as many Gaussians.
            halo: metres of context around a tile.

        Returns:
            float16 on the encoder's device [N, d].
        """
        on_device = gaussians.to(self.device)
        if self.model.config.in_channels == POINT_CHANNELS:
            normals = shortest_axes(on_device)
            return self.encode_points(on_device.means, on_device.colors, normals, head, grid_size, max_points, halo)
        channels = gaussian_channels(on_device)
        return self._encode(on_device.means, channels, head, grid_size, max_points, halo, on_device.opacities)

    def encode_points(
        self,
        points: Tensor,
        colors: Tensor,
        normals: Tensor,
        head: str | None = "lang",
        grid_size: float | None = None,
        max_points: int = 500_000,
        halo: float = 0.8,
    ) -> Tensor:
        """Features of each point of a cloud, for models of the point variant; see :meth:`encode`.

        Args:
            points: metres [N, 3].
            colors: in [0, 1] [N, 3].
            normals: [N, 3].

        Raises:
            ValueError: the model reads Gaussians.
        """
        points, colors, normals = (t.to(self.device, torch.float32) for t in (points, colors, normals))
        channels = point_channels(points, colors, normals)
        return self._encode(points, channels, head, grid_size, max_points, halo, None)

    @torch.inference_mode()
    def _encode(
        self,
        points: Tensor,
        channels: Tensor,
        head: str | None,
        grid_size: float | None,
        max_points: int,
        halo: float,
        priority: Tensor | None,
    ) -> Tensor:
        expected = self.model.config.in_channels
        if channels.shape[1] != expected:
            raise ValueError(f"input has {channels.shape[1]} channels, the model reads {expected}")
        dim = self.model.config.feature_dim if head is None else self.model.config.heads.get(head)
        if dim is None:
            raise KeyError(f"no head {head!r}: the model has {sorted(self.model.config.heads)}")
        size = grid_size or self.model.config.grid_size
        out = torch.empty((points.shape[0], dim), dtype=torch.float16, device=self.device)
        for region, owned in tiles(points, max_points, halo):
            weights = None if priority is None else priority[region]
            voxels = voxelize(points[region], channels[region], size, weights)
            wanted = voxels.voxel_of_point[owned]
            out[region[owned]] = self._pass(voxels.grid, voxels.feat, head)[wanted]
        return out

    def _pass(self, grid: Tensor, feat: Tensor, head: str | None) -> Tensor:
        """Features of one scene's voxels, float16 [V, d]."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            levels = self.model.hierarchy(grid, torch.tensor([grid.shape[0]], device=grid.device))
            upcast = self.model(feat, levels)
            return (upcast if head is None else self.model.project(upcast, head)).half()
