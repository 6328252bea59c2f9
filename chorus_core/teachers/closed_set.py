"""A closed-set segmentation network plus text: its classes become points of a text space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from chorus_core.semantics.text_encoder import TextEncoder
from chorus_core.semantics.vocabulary import PROMPTS, Vocabulary, encode_labels
from chorus_core.teachers.base import FeatureTable, Teacher, TeacherError

_LEAST_NORM = 1e-6


class Segmenter(Protocol):
    """A network that knows a fixed list of classes.

    Attributes:
        name: identifies architecture and weights.
        classes: names in the order of the probabilities; "" for one that names no thing, such as background.
        device: where it runs.
    """

    name: str
    classes: tuple[str, ...]
    device: torch.device

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities on a regular grid over each image, at the network's own stride.

        Args:
            images: sRGB, uint8 [B, H, W, 3].

        Returns:
            float [B, h, w, K], on the segmenter's device.
        """
        ...


class ClosedSetTeacher(Teacher):
    """Feature of a pixel = sum over classes of p(class) x text embedding of the class, unit length.

    Where a class without a name is the most probable, the map is zero and the table says nothing.

    Args:
        segmenter: gives the probabilities.
        text_encoder: embeds the classes' names; its space is what the "lang" head learns.
        prompts: sentences with ``{label}`` whose embeddings are averaged.

    Raises:
        TeacherError: no class has a name.
    """

    def __init__(self, segmenter: Segmenter, text_encoder: TextEncoder, prompts: Sequence[str] = PROMPTS) -> None:
        if not any(segmenter.classes):
            raise TeacherError(f"segmenter {segmenter.name!r}: no class has a name")
        self.name = f"{segmenter.name}+{text_encoder.name}"
        self.heads = {"lang": text_encoder.dim}
        self.text = text_encoder.name
        self.device = segmenter.device
        self.classes = segmenter.classes
        self._segmenter = segmenter
        self._named = torch.tensor([bool(name) for name in self.classes], device=self.device)
        self._embeddings = _embed(self.classes, text_encoder, prompts).to(self.device)  # [K, D]

    @torch.inference_mode()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        p = self._segmenter.probabilities(images).float()  # [B, h, w, K]
        known = self._named[p.argmax(-1)].unsqueeze(-1)
        return {"lang": nn.functional.normalize(p @ self._embeddings, dim=-1) * known}

    @torch.inference_mode()
    def tables(self, images: Tensor) -> dict[str, list[FeatureTable]]:
        return {"lang": [_without_empty(found) for found in super().tables(images)["lang"]]}


def _without_empty(found: FeatureTable) -> FeatureTable:
    """Pixels whose feature is zero have none."""
    empty = found.table.norm(dim=1) < _LEAST_NORM
    return replace(found, cells=found.cells.masked_fill(empty[found.cells], -1)) if empty.any() else found


def _embed(classes: Sequence[str], encoder: TextEncoder, prompts: Sequence[str]) -> Tensor:
    """Text embedding of each class [K, D], zero for those without a name. Two classes may share a name."""
    keys = [name.strip().casefold() for name in classes]
    names = tuple(dict.fromkeys(key for key in keys if key))
    embeddings = dict(zip(names, encode_labels(Vocabulary(names), encoder, prompts), strict=True))
    return torch.stack([embeddings[key] if key else torch.zeros(encoder.dim) for key in keys])
