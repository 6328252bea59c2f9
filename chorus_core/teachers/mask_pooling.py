"""One vision-language feature for each mask of an image, from the image, the mask's box, and the mask alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from chorus_core.teachers.base import FeatureTable, Teacher
from chorus_core.teachers.images import check_images, normalized, resized
from chorus_core.teachers.mask_proposers import MaskProposer
from chorus_core.teachers.open_clip_tower import ImageTower

_STRIDE = 8
_BATCH = 32


class MaskPooledTeacher(Teacher):
    """Mask-pooled features of an open_clip model for the head "lang"; pixels of no mask have none.

    HOV-SG's pooling (Werby et al. 2024) as in the data preparation of SceneSplat and Chorus; see :func:`pool_masks`.
    Where masks overlap, a pixel belongs to the smallest one.

    Args:
        tower: the image side.
        proposer: finds the masks.
        smallest: pixels that a mask must be left with.
    """

    def __init__(self, tower: ImageTower, proposer: MaskProposer, smallest: int = 100) -> None:
        self.name = f"masks:{tower.name}:{proposer.name}:{smallest}"
        self.text, self.device, self.heads = tower.text, tower.device, {"lang": tower.dim}
        self._tower, self._proposer, self._smallest = tower, proposer, smallest

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The feature of the mask at the centre of each cell of 8 x 8 pixels, zero where there is none."""
        height, width = check_images(images)
        v, u = (_centres(side, device=self.device) for side in (height, width))
        grids = []
        for found in self.tables(images)["lang"]:
            cells = found.cells[v][:, u]
            known = (cells >= 0).unsqueeze(-1)
            empty = found.table.new_zeros(1, found.table.shape[1])
            grids.append(torch.cat([found.table, empty])[cells] * known)
        return {"lang": torch.stack(grids)}

    @torch.inference_mode()
    def tables(self, images: Tensor) -> dict[str, list[FeatureTable]]:
        check_images(images)
        return {"lang": [self._table(image) for image in images]}

    def _table(self, image: Tensor) -> FeatureTable:
        masks = self._proposer.propose(image.cpu().numpy())
        cells, rows = mask_cells(masks, self._smallest)
        masks, cells = masks[rows].to(self.device), cells.to(self.device)
        if not len(masks):
            return FeatureTable(torch.zeros(0, self._tower.dim, device=self.device), cells)
        x = normalized(
            image.to(self.device).permute(2, 0, 1)[None].float() / 255, self._tower.mean, self._tower.std
        )  # [1, 3, H, W]
        whole = self._tower.embed(resized(x, self._tower.size))
        boxes = self._embed_crops(x[0], masks, only_mask=False)
        alone = self._embed_crops(x[0], masks, only_mask=True)
        return FeatureTable(pool_masks(whole[0], boxes, alone), cells)

    def _embed_crops(self, x: Tensor, masks: Tensor, only_mask: bool) -> Tensor:
        """Embeddings of the masks' crops [M, D]; a batch of them exists at a time."""
        found = []
        for some in masks.split(_BATCH):
            crops = [mask_crop(x, mask, only_mask) for mask in some]
            found.append(self._tower.embed(torch.cat([resized(crop[None], self._tower.size) for crop in crops])))
        return torch.cat(found)


def pool_masks(whole: Tensor, boxes: Tensor, alone: Tensor) -> Tensor:
    """Features of masks out of three views of each (Chorus' data preparation, step 1).

    s = cos(F_l, F_m), F_l' = s F_m + (1 - s) F_l, w = softmax over the masks of cos(F_l', F_g), and
    F = w F_g + (1 - w) (1 - s) F_l + (1 - w) s F_m, here of unit length.

    Args:
        whole: F_g, of the image, unit [D].
        boxes: F_l, of each mask's bounding box, unit [M, D].
        alone: F_m, of each mask with nothing around it, unit [M, D].

    Returns:
        unit [M, D].
    """
    s = (boxes * alone).sum(dim=-1, keepdim=True)
    local = s * alone + (1 - s) * boxes
    w = (nn.functional.normalize(local, dim=-1) @ whole).softmax(dim=0)[:, None]
    return nn.functional.normalize(w * whole + (1 - w) * local, dim=-1)


def mask_crop(x: Tensor, mask: Tensor, only_mask: bool) -> Tensor:
    """The square that holds a mask's bounding box, zero (the mean colour) outside the box.

    Args:
        x: normalised image [3, H, W].
        mask: bool [H, W], not empty.
        only_mask: zero outside the mask too.

    Returns:
        [3, S, S].
    """
    rows, columns = (torch.nonzero(mask.any(dim=axis)).flatten() for axis in (1, 0))
    box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    crop = x[:, box[0], box[1]]
    crop = crop * mask[box] if only_mask else crop
    height, width = crop.shape[1:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return nn.functional.pad(crop, (left, side - width - left, top, side - height - top))


def mask_cells(masks: Tensor, smallest: int) -> tuple[Tensor, Tensor]:
    """Gives each pixel to the smallest mask that holds it.

    Args:
        masks: bool [M, H, W].
        smallest: masks left with fewer pixels are dropped; their pixels go to no one.

    Returns:
        Place of each pixel's mask among the kept ones, -1 = none, int64 [H, W]; the kept masks, int64 [K].
    """
    owner = torch.full(masks.shape[1:], -1, dtype=torch.int64, device=masks.device)
    for i in masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True).tolist():
        owner[masks[i]] = i
    left = torch.bincount(owner[owner >= 0], minlength=len(masks))
    kept = torch.nonzero(left >= max(1, smallest)).flatten()
    # One place more, for -1.
    place = torch.full((len(masks) + 1,), -1, dtype=torch.int64, device=masks.device)
    place[kept] = torch.arange(len(kept), device=masks.device)
    return place[owner], kept


def _centres(side: int, device: torch.device) -> Tensor:
    """Pixel at the centre of each of a side's cells."""
    count = -(-side // _STRIDE)
    return ((torch.arange(count, device=device) + 0.5) * side / count).long()
