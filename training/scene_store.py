"""Scenes held in memory on the training device, and batches drawn from them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chorus_core.encoder.inputs import gaussian_channels, voxelize
from chorus_core.gaussians import Gaussians
from training.scenes.scene_file import load_scene

logger = logging.getLogger(__name__)


@dataclass
class StoredScene:
    """One scene on the device.

    Attributes:
        gaussians: N of them.
        instance: of each, -1 = unlabelled, int64 [N].
        category: of each instance, place in the language bank [I].
        color: of each instance, place among the colour words, -1 = unknown [I].
        voxel_size: of the map that made it, metres.
        object_ids: of each instance.
    """

    gaussians: Gaussians
    instance: Tensor
    category: Tensor
    color: Tensor
    voxel_size: float
    object_ids: list[str]


@dataclass
class Batch:
    """Several scenes on the encoder's grid, one after the other.

    Attributes:
        grid: integer coordinates [V, 3].
        feat: input channels [V, 11].
        offset: cumulative scene sizes [B].
        instance: instance of each voxel in the batch-wide tables below, -1 = unlabelled [V].
        category: of each instance [I].
        color: of each instance, -1 = unknown [I].
        scene: which scene each voxel belongs to [V].
        object_ids: of each instance.
    """

    grid: Tensor
    feat: Tensor
    offset: Tensor
    instance: Tensor
    category: Tensor
    color: Tensor
    scene: Tensor
    object_ids: list[str]


class SceneStore:
    """Scenes of one subset; a folder that is still being filled can be read again.

    Args:
        folder: written by ``training.scenes.generate``.
        subset: prefix of the scene files.
        device: where scenes are kept.
        category_index: place of a category in the language bank.
        colors: the colour words, in the bank's order.
    """

    def __init__(
        self,
        folder: str | Path,
        subset: str,
        device: torch.device,
        category_index: Callable[[str], int],
        colors: list[str],
    ) -> None:
        self.folder = Path(folder)
        self.subset = subset
        self.device = device
        self.scenes: list[StoredScene] = []
        self._category_index = category_index
        self._colors = colors
        self._seen: set[str] = set()

    def refresh(self, limit: int = 10_000) -> int:
        """Load what was written since the last call, at most ``limit`` scenes; returns how many."""
        added = 0
        for path in sorted(self.folder.glob(f"{self.subset}_*.json")):
            if added >= limit or len(self.scenes) >= limit:
                break
            if path.name in self._seen:
                continue
            self._seen.add(path.name)
            self.scenes.append(self._store(path))
            added += 1
        return added

    def _store(self, path: Path) -> StoredScene:
        scene = load_scene(path)
        return StoredScene(
            scene.gaussians.to(self.device),
            scene.instance.to(self.device),
            torch.tensor([self._category_index(i.category) for i in scene.instances], device=self.device),
            torch.tensor(
                [self._colors.index(i.color) if i.color in self._colors else -1 for i in scene.instances],
                device=self.device,
            ),
            float(scene.facts["voxel_size"]),
            [i.object_id for i in scene.instances],
        )


def collate(parts: list[tuple[StoredScene, Gaussians, Tensor, float]]) -> Batch:
    """Voxelize scenes and lay them end to end.

    Args:
        parts: for each scene its tables, its (augmented) Gaussians, the instance of each of these, and the voxel
            size to encode at, metres.
    """
    grids, feats, instances, scenes, categories, colors, sizes, object_ids = [], [], [], [], [], [], [], []
    first_instance = 0
    for number, (scene, gaussians, instance, grid_size) in enumerate(parts):
        voxels = voxelize(gaussians.means, gaussian_channels(gaussians), grid_size, gaussians.opacities)
        chosen = instance[voxels.representative]
        grids.append(voxels.grid)
        feats.append(voxels.feat)
        instances.append(torch.where(chosen >= 0, chosen + first_instance, -1))
        scenes.append(torch.full_like(chosen, number))
        categories.append(scene.category)
        colors.append(scene.color)
        object_ids += scene.object_ids
        sizes.append(voxels.grid.shape[0])
        first_instance += scene.category.numel()
    offset = torch.tensor(sizes, device=grids[0].device).cumsum(0)
    return Batch(
        torch.cat(grids), torch.cat(feats), offset, torch.cat(instances), torch.cat(categories), torch.cat(colors),
        torch.cat(scenes), object_ids,
    )  # fmt: skip
