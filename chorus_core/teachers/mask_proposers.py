"""Class-agnostic masks of an image: a graph-based segmentation that needs no weights, and SAM."""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from chorus_core.teachers.base import TeacherError
from chorus_core.teachers.hub import folder_name, loading, local_path

_CROP_OVERLAP = 512 / 1500
"""Share of the shorter side by which crops overlap in the first layer, as in SAM's automatic mask generator."""


class MaskProposer(Protocol):
    """What finds regions in an image.

    Attributes:
        name: identifies method, weights and settings.
    """

    name: str

    def propose(self, image: np.ndarray) -> Tensor:
        """Masks of an image, sRGB uint8 [H, W, 3], best first: bool [M, H, W]. They may overlap; there may be none."""
        ...


class GraphSegmentation:
    """Efficient graph-based segmentation (Felzenszwalb and Huttenlocher 2004), on a reduced image.

    Regions grow along the weakest colour edges for as long as an edge is no stronger than what both regions hold
    inside, plus ``scale / size``. No weights and no idea of objects: a fallback for where SAM is not to be had.

    Args:
        scale: k of the paper, in grey levels; larger gives larger regions.
        smallest: pixels of the smallest region, in the reduced image.
        side: pixels of the reduced image's longer side.
        noise: grey levels that count as noise; a bilateral filter takes them out first and, unlike the paper's
            Gaussian, leaves no ramps at edges, which would become thin regions of their own.
    """

    def __init__(self, scale: float = 400.0, smallest: int = 60, side: int = 240, noise: float = 25.0) -> None:
        self._scale, self._smallest, self._side, self._noise = scale, smallest, side, noise
        self.name = f"graph-{scale:g}-{smallest}-{side}-{noise:g}"

    def propose(self, image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        ratio = min(1.0, self._side / max(height, width))
        small = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        regions = graph_segmentation(cv2.bilateralFilter(reduced, 5, self._noise, 2.0), self._scale, self._smallest)
        regions = cv2.resize(regions, (width, height), interpolation=cv2.INTER_NEAREST)
        labels = torch.from_numpy(regions)
        order = torch.bincount(labels.flatten()).argsort(descending=True)
        return labels == order[:, None, None]


def graph_segmentation(image: np.ndarray, scale: float, smallest: int) -> np.ndarray:
    """Regions of an image [H, W, C] by Felzenszwalb and Huttenlocher (2004), with 8 neighbours: int32 [H, W] from 0."""
    weights, first, second = _edges(image.astype(np.float32))
    pixels = image.shape[0] * image.shape[1]
    parent, size, limit = list(range(pixels)), [1] * pixels, [scale] * pixels

    def root(a: int) -> int:
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    def join(a: int, b: int) -> int:
        a, b = (a, b) if size[a] >= size[b] else (b, a)
        parent[b] = a
        size[a] += size[b]
        return a

    for weight, a, b in zip(weights, first, second, strict=True):
        a, b = root(a), root(b)
        if a != b and weight <= limit[a] and weight <= limit[b]:
            a = join(a, b)
            limit[a] = weight + scale / size[a]
    for a, b in zip(first, second, strict=True):
        a, b = root(a), root(b)
        if a != b and min(size[a], size[b]) < smallest:
            join(a, b)
    _, labels = np.unique([root(a) for a in range(pixels)], return_inverse=True)
    return labels.reshape(image.shape[:2]).astype(np.int32)


def _edges(image: np.ndarray) -> tuple[list[float], list[int], list[int]]:
    """Colour distance and both ends of each edge between neighbours, weakest first."""
    index = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    ways = [
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[:-1, :-1], np.s_[1:, 1:]),
        (np.s_[:-1, 1:], np.s_[1:, :-1]),
    ]
    weight = np.concatenate([np.linalg.norm(image[a] - image[b], axis=-1).ravel() for a, b in ways])
    first = np.concatenate([index[a].ravel() for a, _ in ways])
    second = np.concatenate([index[b].ravel() for _, b in ways])
    order = weight.argsort(kind="stable")
    return weight[order].tolist(), first[order].tolist(), second[order].tolist()


class SamProposer:
    """Automatic masks of SAM, SAM 2 or a relative, through transformers' mask generation.

    Settings are those of the Chorus data preparation: 32 points a side, predicted IoU 0.7, stability 0.85, NMS between
    crops 0.7; masks that overlap a better one with an IoU above 0.8 are dropped.

    Args:
        model: its name on the hub (``facebook/sam2.1-hiera-large``), or a local folder.
        device: where it runs.
        points: a side of the grid of prompts.
        crop_layers: further layers of crops that are searched.

    Raises:
        TeacherError: transformers is not installed, or model or weights cannot be had.
    """

    def __init__(
        self,
        model: str,
        device: torch.device | str = "cpu",
        points: int = 32,
        crop_layers: int = 1,
        least_iou: float = 0.7,
        least_stability: float = 0.85,
    ) -> None:
        with loading(f"mask generation model {model!r}", "masks=<folder>", model):
            folder = local_path(model)
            try:
                from transformers import pipeline
            except ImportError as error:
                raise TeacherError(
                    f"mask generation model {model!r}: needs the Python package 'transformers': "
                    "pip install transformers, or leave 'masks' out for graph-based masks"
                ) from error

            self._pipeline: Any = pipeline("mask-generation", model=str(folder or model), device=torch.device(device))
        self._crop_layers = crop_layers
        # Its own search of crops stacks crops of unequal size, which some releases refuse; ours is below.
        self._options = {
            "points_per_crop": points,
            "points_per_batch": points_per_batch(points),
            "crops_n_layers": 0,
            "pred_iou_thresh": least_iou,
            "stability_score_thresh": least_stability,
            "crops_nms_thresh": 0.7,
        }
        self.name = (
            f"{folder_name(folder) if folder else model}-{points}-{crop_layers}-{least_iou:g}-{least_stability:g}"
        )

    @torch.inference_mode()
    def propose(self, image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        masks, scores = [torch.zeros(0, height, width, dtype=torch.bool)], [torch.zeros(0)]
        for box in crop_boxes(height, width, self._crop_layers):
            found, score = self._search(image[box])
            whole = torch.zeros(len(found), height, width, dtype=torch.bool)
            whole[(slice(None), *box)] = found
            complete = ~_cut_off(found, box, height, width)
            masks.append(whole[complete])
            scores.append(score[complete])
        return distinct_masks(torch.cat(masks), torch.cat(scores))

    def _search(self, image: np.ndarray) -> tuple[Tensor, Tensor]:
        """Masks bool [M, h, w] and predicted IoUs [M] of one crop."""
        from PIL import Image

        found = self._pipeline(Image.fromarray(np.ascontiguousarray(image)), **self._options)
        masks = [torch.as_tensor(mask).bool().cpu() for mask in found["masks"]]
        if not masks:
            return torch.zeros(0, *image.shape[:2], dtype=torch.bool), torch.zeros(0)
        return torch.stack(masks), torch.as_tensor(found["scores"]).float().cpu()


def points_per_batch(points: int, most: int = 64) -> int:
    """Prompts searched at once: whole rows of the grid, in batches of one size.

    A last batch that is smaller than the others is never marked as the last by transformers before 5.10, and the search
    then ends in StopIteration.

    Args:
        points: a side of the grid of prompts.
        most: in a batch, unless one row alone has more.
    """
    return points * max(
        rows for rows in range(1, points + 1) if points % rows == 0 and (rows == 1 or rows * points <= most)
    )


def crop_boxes(height: int, width: int, layers: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the whole image, and of 2^i x 2^i overlapping crops for each layer i (SAM's appendix B)."""
    boxes = [(slice(0, height), slice(0, width))]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(_CROP_OVERLAP * min(height, width) * 2 / count)
        rows, columns = (_overlapping(side, count, overlap) for side in (height, width))
        boxes += [(row, column) for row in rows for column in columns]
    return boxes


def _overlapping(side: int, count: int, overlap: int) -> list[slice]:
    """A side in ``count`` equal pieces that overlap."""
    length = -(-(side + overlap * (count - 1)) // count)
    starts = [(length - overlap) * i for i in range(count)]
    return [slice(start, min(start + length, side)) for start in starts]


def _cut_off(masks: Tensor, box: tuple[slice, slice], height: int, width: int) -> Tensor:
    """Which masks [M, h, w] of a crop touch an edge of it that is not the image's: parts of something larger."""
    rows, columns = box
    touches = torch.zeros(len(masks), dtype=torch.bool)
    if rows.start > 0:
        touches |= masks[:, 0].any(dim=1)
    if rows.stop < height:
        touches |= masks[:, -1].any(dim=1)
    if columns.start > 0:
        touches |= masks[:, :, 0].any(dim=1)
    if columns.stop < width:
        touches |= masks[:, :, -1].any(dim=1)
    return touches


def distinct_masks(masks: Tensor, scores: Tensor, most_iou: float = 0.8, smallest: int = 10) -> Tensor:
    """Masks without those that nearly repeat a better one, best first.

    Args:
        masks: bool [M, H, W].
        scores: larger is better, [M].
        most_iou: two masks that are kept overlap by no more.
        smallest: pixels that a mask has more of.
    """
    masks = masks[scores.argsort(descending=True, stable=True)]
    masks = masks[masks.flatten(1).sum(dim=1) > smallest]
    flat = masks.flatten(1).float()
    areas, overlap = flat.sum(dim=1), flat @ flat.T
    iou = overlap / (areas[:, None] + areas[None, :] - overlap)
    kept: list[int] = []
    for i in range(len(masks)):
        if not kept or float(iou[i, kept].max()) <= most_iou:
            kept.append(i)
    return masks[kept]


def load_mask_proposer(name: str | None, device: torch.device | str = "cpu") -> MaskProposer:
    """``graph`` (or None): graph-based masks without weights; anything else names a SAM model or its folder."""
    return GraphSegmentation() if name in (None, "", "graph") else SamProposer(name, device)
