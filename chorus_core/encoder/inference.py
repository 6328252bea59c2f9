"""A model made ready to be read from: the same function, rearranged and in the precision of the device."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chorus_core.encoder.backbone import Block, PointTransformer, Stem
from chorus_core.encoder.factored_head import CentredPyramid, FactoredHead
from chorus_core.encoder.hierarchy import Level
from chorus_core.encoder.model import ChorusModel
from chorus_core.encoder.pyramid import Pyramid, Rows
from chorus_core.encoder.sparse_conv import PackedConv3d


def default_precision(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs that have it, float32 elsewhere."""
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if half else torch.float32


class Features(NamedTuple):
    """Features before they are normalised.

    Attributes:
        values: [R, d].
        length: of each in the teacher's space, by which it is to be divided [R]; None where the teacher's features are
            not of unit length.
    """

    values: Tensor
    length: Tensor | None


class InferenceModel:
    """Backbone and heads of a model for passes without gradients; the model itself is left as it is.

    The convolution of a block and the linear layer behind it are one convolution; heads are
    :class:`~chorus_core.encoder.factored_head.FactoredHead`. In half precision the residual stream and all norms
    stay float32.

    Args:
        model: any; a later change of it does not show here.
        device: where passes run.
        precision: bfloat16 or float32.
    """

    def __init__(self, model: ChorusModel, device: torch.device, precision: torch.dtype) -> None:
        self.config = model.config
        self.device, self.precision = device, precision
        self.backbone = _merged(model.backbone)
        if precision != torch.float32:
            _halve(self.backbone, precision)
        self.backbone.to(device).eval()
        self.heads: Mapping[str, FactoredHead] = {
            name: FactoredHead(projector, model.config.enc_channels, precision).to(device)
            for name, projector in model.projectors.items()
        }

    def read(self, feat: Tensor, levels: list[Level]) -> Pyramid:
        """The features of every stage for input channels [N, in_channels] at the finest voxels."""
        return self.backbone.pyramid(feat, levels)

    def features(
        self, pyramid: Pyramid, voxels: Iterable[Rows], bases: Mapping[str | None, Tensor | None]
    ) -> Iterator[dict[str | None, Features]]:
        """Teachers' features of some voxels after others, in a basis where there is one.

        Args:
            pyramid: of :meth:`read`, over voxels that follow Morton's curve, as ``voxelize`` leaves them.
            voxels: parts of R voxels each.
            bases: heads, None for the upcast features, and orthonormal columns [d_t, d] or None for each.
        """
        heads = {name: self.heads[name] for name in bases if name is not None}
        centred = inner = None
        if heads:
            first = next(iter(heads.values()))
            centred, inner = CentredPyramid(pyramid, self.precision, first.epsilon), first.inner
        for rows in voxels:
            part = None if centred is None else centred.part(rows, inner)
            yield {
                name: self._one(pyramid.upcast(rows.voxels) if name is None else heads[name](part), name, basis)
                for name, basis in bases.items()
            }

    def _one(self, found: Tensor, head: str | None, basis: Tensor | None) -> Features:
        unit = head is not None and head not in self.config.raw_heads
        length = torch.linalg.vector_norm(found, dim=1, dtype=torch.float32) if unit else None
        return Features(found if basis is None else found @ basis.to(found.dtype), length)


def _merged(backbone: PointTransformer) -> PointTransformer:
    """A copy in which each block's convolution has taken in the linear layer that follows it."""
    backbone = copy.deepcopy(backbone).requires_grad_(False)
    for block in backbone.modules():
        if isinstance(block, Block):
            convolve, linear, norm = block.cpe
            weight, matrix = convolve.weight.double(), linear.weight.double()
            weight = torch.einsum("oj,jxyzi->oxyzi", matrix, weight).float()
            bias = (matrix @ convolve.bias.double() + linear.bias).float()
            block.cpe = nn.ModuleList((PackedConv3d(weight, bias), nn.Identity(), norm))
    return backbone


def _halve(backbone: PointTransformer, precision: torch.dtype) -> None:
    """Convolutions and linear layers but the stem's to ``precision``; norms stay as they are."""
    stem = {id(module) for part in backbone.modules() if isinstance(part, Stem) for module in part.modules()}
    for module in backbone.modules():
        if isinstance(module, nn.Linear | PackedConv3d) and id(module) not in stem:
            module.to(precision)
