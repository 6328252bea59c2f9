"""The encoder as others use it: Gaussians or points in, one feature vector each out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from chorus_core.encoder.acceleration import current
from chorus_core.encoder.checkpoint import CheckpointError, read_model
from chorus_core.encoder.fragments import mean_of_fragments
from chorus_core.encoder.hierarchy import Level
from chorus_core.encoder.inference import InferenceModel, default_precision
from chorus_core.encoder.inputs import (
    POINT_CHANNELS,
    gaussian_channels,
    grid_origin,
    mean_channels,
    point_channels,
    shortest_axes,
    voxelize,
)
from chorus_core.encoder.memory import PassPlan, plan_pass
from chorus_core.encoder.model import ChorusModel
from chorus_core.encoder.placement import Placement, place
from chorus_core.encoder.tiles import tiles, voxel_tiles
from chorus_core.gaussians import Gaussians
from chorus_core.io.architecture import check_number
from chorus_core.io.errors import reading

if TYPE_CHECKING:
    from typing_extensions import Unpack

PerVoxel = Literal["first", "mean", "fragments"]
"""What the encoder reads where several Gaussians or points share a voxel: the most opaque Gaussian or the first point;
their mean, Gaussians weighed by opacity; or one after the other in several passes, as upstream does, see
:mod:`chorus_core.encoder.fragments`."""

Outputs = Mapping[str | None, Tensor | None]
"""Heads to read, None for the upcast features, each with an orthonormal basis [d_t, d] that its features are stored
in, see :class:`chorus_core.semantics.relevancy.FeatureBasis`, or None to keep them as they are."""


class EncodeOptions(TypedDict, total=False):
    """How a scene is encoded; each may be left out.

    Attributes:
        grid_size: edge of the encoder's voxels, metres; the model's own by default. A map made at a coarser voxel size
            is best encoded at that size.
        max_points: larger scenes are encoded in tiles of at most as many occupied voxels; 500,000 by default.
        memory_gib: tiles so small that the encode allocates no more than this; 0 or None sets no limit.
        halo: metres of context around a tile; 0.8 by default.
        per_voxel: what stands for several Gaussians of a voxel, see :data:`PerVoxel`; "first" by default.
        origin: lowest cell [3] of a scene that these are a part of, so that they are pooled as in the whole; their own
            by default.
        asked: which of them features are returned of, bool [N], the others being context; all by default.
    """

    grid_size: float | None
    max_points: int
    memory_gib: float | None
    halo: float
    per_voxel: PerVoxel
    origin: Tensor | None
    asked: Tensor | None


_HEAD_ROWS = {"cuda": 81_920, "cpu": 8_192}
"""Voxels of a slice of a head: enough to fill a GPU; few enough for a CPU's cache."""


class ChorusEncoder:
    """A Chorus model ready to encode scenes of any size.

    Args:
        model: as trained; it stays as it is and where it is. What encodes is made of it once, at the first encode.
        description: what came with the checkpoint (its text side, calibration ...).
        basis: tensors of the compact feature space, see :class:`chorus_core.semantics.relevancy.FeatureBasis`.
        device: where it runs.
        precision: bfloat16 or float32; None takes bfloat16 on GPUs that have it, float32 elsewhere.

    Attributes:
        grid_size: edge of the voxels that the model reads best, metres: what its description says, or what it was
            trained on.
    """

    def __init__(
        self,
        model: ChorusModel,
        description: dict[str, Any] | None = None,
        basis: dict[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
        precision: torch.dtype | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model
        self.description = description or {}
        self.basis = {name: tensor.to(self.device) for name, tensor in (basis or {}).items()}
        self.precision = precision or default_precision(self.device)
        self.grid_size = _grid_size(self.description, model)
        self.head_rows = _HEAD_ROWS["cuda" if self.device.type == "cuda" else "cpu"]

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, device: torch.device | str = "cpu") -> ChorusEncoder:
        """Load a shipped model by name, a model folder, or a released checkpoint file.

        Raises:
            CheckpointError: missing, damaged, or of another architecture (the keys are named).
        """
        model, description, basis = read_model(name_or_path)
        with reading(name_or_path, CheckpointError):
            return cls(model.eval(), description, basis, device)

    @cached_property
    def inference(self) -> InferenceModel:
        """What encodes. Who only wants the text side of a model, or its facts, does without."""
        return InferenceModel(self.model, self.device, self.precision)

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

    def encode(
        self, gaussians: Gaussians, head: str | None = "lang", basis: Tensor | None = None, **how: Unpack[EncodeOptions]
    ) -> Tensor:
        """Features of each Gaussian, of one head, float16 on the encoder's device [N, d]; see :meth:`encode_heads`.

        Args:
            head: teacher space to project to; None gives the upcast features.
            basis: orthonormal columns to store the features in [d_t, d]; None keeps them as they are.
            how: see :class:`EncodeOptions`.
        """
        return self.encode_heads(gaussians, {head: basis}, **how)[head]

    def encode_heads(
        self, gaussians: Gaussians, outputs: Outputs, **how: Unpack[EncodeOptions]
    ) -> dict[str | None, Tensor]:
        """Features of each Gaussian, of several heads in one pass.

        A model of the point variant reads centres, colours and shortest axes (the normals of a map's discs).

        Args:
            gaussians: N of them, in any frame with z up.
            outputs: heads, see :data:`Outputs`.
            how: see :class:`EncodeOptions`.

        Returns:
            float16 on the encoder's device [N, d] for each head.

        Raises:
            KeyError: no such head.
            ValueError: the model reads points of another kind, or the memory does not suffice.
        """
        on_device = gaussians.to(self.device)
        if self.model.config.in_channels == POINT_CHANNELS:
            channels, priority = point_channels(on_device.means, on_device.colors, shortest_axes(on_device)), None
        else:
            channels, priority = gaussian_channels(on_device), on_device.opacities
        with current(self.device):
            return self._encode(on_device.means, channels, priority, outputs, **how)

    def encode_points(
        self,
        points: Tensor,
        colors: Tensor,
        normals: Tensor,
        head: str | None = "lang",
        basis: Tensor | None = None,
        **how: Unpack[EncodeOptions],
    ) -> Tensor:
        """Features of each point of a cloud, for models of the point variant, float16 [N, d].

        Args:
            points: metres [N, 3].
            colors: in [0, 1] [N, 3].
            normals: [N, 3].
            head: teacher space to project to; None gives the upcast features.
            basis: orthonormal columns to store the features in [d_t, d]; None keeps them as they are.
            how: see :class:`EncodeOptions`.

        Raises:
            ValueError: the model reads Gaussians, or the memory does not suffice.
        """
        points, colors, normals = (t.to(self.device, torch.float32) for t in (points, colors, normals))
        channels = point_channels(points, colors, normals)
        with current(self.device):
            return self._encode(points, channels, None, {head: basis}, **how)[head]

    @torch.inference_mode()
    def _encode(
        self,
        points: Tensor,
        channels: Tensor,
        priority: Tensor | None,
        outputs: Outputs,
        *,
        grid_size: float | None = None,
        max_points: int = 500_000,
        memory_gib: float | None = None,
        halo: float = 0.8,
        per_voxel: PerVoxel = "first",
        origin: Tensor | None = None,
        asked: Tensor | None = None,
    ) -> dict[str | None, Tensor]:
        config, count = self.model.config, len(points)
        if channels.shape[1] != config.in_channels:
            raise ValueError(f"input has {channels.shape[1]} channels, the model reads {config.in_channels}")
        outputs = {head: None if basis is None else basis.to(self.device) for head, basis in outputs.items()}
        plan = PassPlan(max_points, self.head_rows)
        if memory_gib:
            plan = self.plan(memory_gib, count, outputs, per_voxel)
        size = grid_size or self.grid_size
        if origin is None and count:
            origin = grid_origin(points, size)
        origin = None if origin is None else origin.to(self.device)
        asked = None if asked is None else asked.to(self.device)
        row_of = torch.arange(count, device=self.device) if asked is None else asked.cumsum(0) - 1
        rows = count if asked is None else int(asked.sum())
        widths = self._widths(outputs).items()
        out = {head: torch.empty((rows, d), dtype=torch.float16, device=self.device) for head, d in widths}
        read = partial(self._pass, head_rows=plan.head_rows)
        # Points of a voxel take memory, too: a budget counts each of them.
        if memory_gib:
            cut = tiles(points, min(max_points, plan.voxels), halo)
        else:
            cut = voxel_tiles(points, size, max_points, halo)
        for region, owned in cut:
            if asked is not None:
                owned = owned & asked[region]
                if not bool(owned.any()):
                    continue
            weights = None if priority is None else priority[region]
            voxels = voxelize(points[region], channels[region], size, weights, origin)
            levels = config.hierarchy(voxels.grid, torch.tensor([len(voxels.grid)]))
            filled = row_of[region[owned]]
            if per_voxel == "fragments":
                blank = {head: self.width(head) for head in outputs}
                found = mean_of_fragments(read, voxels, levels, channels[region], weights, blank)
                for head, basis in outputs.items():
                    out[head][filled] = self._stored(found[head][owned], head, basis)
                continue
            feat = voxels.feat if per_voxel == "first" else mean_channels(channels[region], voxels, weights)
            read(feat, levels, Placement(voxels.voxel_of_point[owned], filled), outputs, out)
        return out

    def plan(self, memory_gib: float, points: int, outputs: Outputs, per_voxel: PerVoxel = "first") -> PassPlan:
        """The largest passes over a scene of so many points that keep to a budget.

        Raises:
            ValueError: the budget is too small for any.
        """
        kept = sum(self.width(head) for head in outputs) if per_voxel == "fragments" else 0
        return plan_pass(
            memory_gib, self.model.config, points, self._widths(outputs).values(),
            self.precision.itemsize, self.head_rows, kept,
        )  # fmt: skip

    def _widths(self, outputs: Outputs) -> dict[str | None, int]:
        return {head: self.width(head) if basis is None else basis.shape[1] for head, basis in outputs.items()}

    def _pass(
        self,
        feat: Tensor,
        levels: list[Level],
        placement: Placement,
        outputs: Outputs,
        out: Mapping[Any, Tensor],
        head_rows: int,
    ) -> None:
        """Encode one scene's voxels and write features where they belong, slice by slice."""
        pyramid = self.inference.read(feat, levels)
        parts = placement.parts(pyramid, head_rows)
        slices = self.inference.features(pyramid, [part.voxels for part in parts], outputs)
        for part, found in zip(parts, slices, strict=True):
            for head, (values, length) in found.items():
                place(out[head], part.rows, values, part.chosen, length)

    def _stored(self, mean: Tensor, head: str | None, basis: Tensor | None) -> Tensor:
        """Means over passes [N, D] as features are stored: of unit length where the head's are, in the basis [N, d]."""
        if head is not None and head not in self.model.config.raw_heads:
            mean = torch.nn.functional.normalize(mean, dim=1)
        return (mean if basis is None else mean @ basis.float()).half()


def _grid_size(description: Mapping[str, Any], model: ChorusModel) -> float:
    """What a description says, or else what the model was trained on."""
    size = description.get("grid_size", model.config.grid_size)
    check_number("grid_size", size, 1e-4, 10.0)
    return float(size)
