"""The encoder as others use it: Gaussians or points in, one feature vector each out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chorus_core.encoder.checkpoint import read_model
from chorus_core.encoder.inputs import (
    POINT_CHANNELS,
    Voxels,
    gaussian_channels,
    grid_origin,
    mean_channels,
    point_channels,
    rank_in_voxel,
    shortest_axes,
    voxelize,
)
from chorus_core.encoder.model import ChorusModel
from chorus_core.encoder.tiles import tiles
from chorus_core.gaussians import Gaussians

PerVoxel = Literal["first", "mean", "fragments"]
"""What the encoder reads where several Gaussians or points share a voxel: the most opaque Gaussian or the first point;
their mean, Gaussians weighed by opacity; or one after the other in up to :data:`FRAGMENTS` passes, as upstream does,
each keeping what it was given itself."""

FRAGMENTS = 8


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
        per_voxel: PerVoxel = "first",
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
            per_voxel: what stands for several Gaussians of a voxel, see :data:`PerVoxel`.

        Returns:
            float16 on the encoder's device [N, d].
        """
        on_device = gaussians.to(self.device)
        if self.model.config.in_channels == POINT_CHANNELS:
            points = (on_device.means, on_device.colors, shortest_axes(on_device))
            return self.encode_points(*points, head, grid_size, max_points, halo, per_voxel)
        channels = gaussian_channels(on_device)
        opacities = on_device.opacities
        return self._encode(on_device.means, channels, head, grid_size, max_points, halo, per_voxel, opacities)

    def width(self, head: str | None = "lang") -> int:
        """Dimensions of a head's features; of the upcast ones for None.

        Raises:
            KeyError: no such head.
        """
        if head is None:
            return self.model.config.feature_dim
        if head not in self.model.config.heads:
            raise KeyError(f"no head {head!r}: the model has {sorted(self.model.config.heads)}")
        return self.model.config.heads[head]

    def encode_points(
        self,
        points: Tensor,
        colors: Tensor,
        normals: Tensor,
        head: str | None = "lang",
        grid_size: float | None = None,
        max_points: int = 500_000,
        halo: float = 0.8,
        per_voxel: PerVoxel = "first",
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
        return self._encode(points, channels, head, grid_size, max_points, halo, per_voxel, None)

    @torch.inference_mode()
    def _encode(
        self,
        points: Tensor,
        channels: Tensor,
        head: str | None,
        grid_size: float | None,
        max_points: int,
        halo: float,
        per_voxel: PerVoxel,
        priority: Tensor | None,
    ) -> Tensor:
        expected = self.model.config.in_channels
        if channels.shape[1] != expected:
            raise ValueError(f"input has {channels.shape[1]} channels, the model reads {expected}")
        size = grid_size or self.model.config.grid_size
        out = torch.empty((points.shape[0], self.width(head)), dtype=torch.float16, device=self.device)
        origin = grid_origin(points, size) if len(points) else None
        for region, owned in tiles(points, max_points, halo):
            weights = None if priority is None else priority[region]
            voxels = voxelize(points[region], channels[region], size, weights, origin)
            if per_voxel == "fragments":
                out[region[owned]] = self._fragments(voxels, channels[region], weights, head)[owned]
                continue
            feat = voxels.feat if per_voxel == "first" else mean_channels(channels[region], voxels, weights)
            out[region[owned]] = self._pass(voxels.grid, feat, head)[voxels.voxel_of_point[owned]]
        return out

    def _fragments(self, voxels: Voxels, channels: Tensor, weights: Tensor | None, head: str | None) -> Tensor:
        """Features of each point, the mean over the passes in which it stood for its voxel, float16 [N, d].

        Points that never did, as their voxel holds more than there are passes, take the mean over all passes.
        """
        at = voxels.voxel_of_point
        rank, counts = rank_in_voxel(at, weights), torch.bincount(at)
        passes = min(FRAGMENTS, int(counts.max()))
        times = channels.new_zeros(len(at))
        own, whole = (channels.new_zeros((count, self.width(head))) for count in (len(at), len(counts)))
        for number in range(passes):
            chosen = (rank == number % counts[at]).nonzero().squeeze(1)
            stands = torch.empty_like(counts)
            stands[at[chosen]] = chosen
            found = self._pass(voxels.grid, channels[stands], head).float()  # [V, d]
            own[stands] += found
            whole += found
            times[stands] += 1
        never = times == 0
        own[never], times[never] = whole[at[never]], float(passes)
        mean = own / times[:, None]
        unit = head is not None and head not in self.model.config.raw_heads
        return (torch.nn.functional.normalize(mean, dim=1) if unit else mean).half()

    def _pass(self, grid: Tensor, feat: Tensor, head: str | None) -> Tensor:
        """Features of one scene's voxels, float16 [V, d]."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            levels = self.model.hierarchy(grid, torch.tensor([grid.shape[0]], device=grid.device))
            upcast = self.model(feat, levels)
            return (upcast if head is None else self.model.project(upcast, head)).half()
