"""Prepared scenes on the training device, and batches of them on the encoder's grid."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from chorus_core.encoder.inputs import gaussian_channels, point_channels, voxelize
from chorus_core.gaussians import Gaussians
from training.augment import AugmentConfig, augment
from training.prepared import LiftedFeatures, load_prepared, prepared_scenes

logger = logging.getLogger(__name__)


@dataclass
class StoredScene:
    """One scene.

    Attributes:
        gaussians: N of them.
        normals: unit [N, 3].
        segment: class of each in the data set's table, -1 = ignore, int64 [N].
        instance: of each, -1 = ignore, int64 [N].
        features: lifted teacher features by head.
        voxel_size: metres between Gaussians; the model's own grid where 0.
        category, color: words of each instance, "" where unknown [I].
        seen: bit k tells whether view k saw the Gaussian, int64 [N]; None where that is not known.
        views: bits in use.
    """

    gaussians: Gaussians
    normals: Tensor
    segment: Tensor
    instance: Tensor
    features: Mapping[str, LiftedFeatures]
    voxel_size: float
    category: tuple[str, ...] = ()
    color: tuple[str, ...] = ()
    seen: Tensor | None = None
    views: int = 63

    def to(self, device: torch.device) -> StoredScene:
        """A copy there."""
        features = {head: lifted.to(device) for head, lifted in self.features.items()}
        tensors = {name: getattr(self, name).to(device) for name in ("gaussians", "normals", "segment", "instance")}
        return replace(self, **tensors, features=features, seen=None if self.seen is None else self.seen.to(device))


@dataclass
class Batch:
    """Several scenes on the encoder's grid, one after the other.

    Attributes:
        grid: integer coordinates [V, 3].
        feat: input channels [V, 11] of Gaussians or [V, 9] of points.
        offset: cumulative scene sizes [B].
        segment: class of each voxel, -1 = ignore [V].
        instance: instance of each voxel among those of the batch, -1 = ignore [V].
        category, color: words of the batch's instances, "" where unknown [I].
        targets: for each head the teacher's features [V, D], undefined where not valid.
        valid: for each head where it says something, bool [V].
    """

    grid: Tensor
    feat: Tensor
    offset: Tensor
    segment: Tensor
    instance: Tensor
    category: tuple[str, ...]
    color: tuple[str, ...]
    targets: dict[str, Tensor]
    valid: dict[str, Tensor]


class SceneStore(Dataset):
    """The scenes of one subset of a prepared data set.

    Args:
        root: holds ``<subset>/<scene>/``.
        subset: whose scenes.
        heads: whose lifted features are needed.
        classes: names in the order of the class table.
        device: where :meth:`scene` puts scenes.
        preload: keep all on the device; otherwise each is read when needed.
        target_share: share of the Gaussians, a random choice for each scene, whose features are kept; the others have
            none. Half of them teach nearly as well in half the memory.

    Raises:
        SceneFolderError: there are no scenes, or (at preload) one is malformed or lacks a head's features.
    """

    def __init__(
        self,
        root: str | Path,
        subset: str,
        heads: Collection[str],
        classes: Sequence[str],
        device: torch.device | str = "cpu",
        preload: bool = False,
        target_share: float = 1.0,
    ) -> None:
        self.folders = prepared_scenes(root, subset)
        self.heads = tuple(heads)
        self.classes = tuple(classes)
        self.device = torch.device(device)
        self.target_share = target_share
        self._place = {name: i for i, name in enumerate(self.classes)}
        self._kept: list[StoredScene] | None = None
        if preload:
            bar = tqdm(self.folders, desc=f"load {subset}", disable=None)
            self._kept = [self.read(i).to(self.device) for i, _ in enumerate(bar)]

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> StoredScene:
        return self.read(index)

    def read(self, index: int) -> StoredScene:
        """A scene from disk, on the CPU."""
        folder = self.folders[index]
        prepared = load_prepared(folder, self.heads)
        info = prepared.info
        table = torch.tensor([self._place.get(name, -1) for name in info.classes] + [-1])
        return StoredScene(
            prepared.gaussians,
            prepared.normals,
            # Without names classes are what they are: the numbers of a table that all scenes share.
            table[prepared.segment] if info.classes else prepared.segment,
            prepared.instance,
            {head: self._thinned(lifted, index) for head, lifted in prepared.features.items()},
            info.voxel_size,
            tuple(i.category for i in info.instances),
            tuple(i.color for i in info.instances),
            prepared.seen,
            63 if prepared.seen is None else max(1, int(prepared.seen.max()).bit_length()),
        )

    def _thinned(self, lifted: LiftedFeatures, scene: int) -> LiftedFeatures:
        """The share of the features that is kept, of the same Gaussians for every head."""
        if self.target_share >= 1.0:
            return lifted
        drawn = torch.rand(len(lifted.index), generator=torch.Generator().manual_seed(scene))
        rows = ((drawn < self.target_share) & (lifted.index >= 0)).nonzero().squeeze(1)
        index = torch.full_like(lifted.index, -1)
        index[rows] = torch.arange(len(rows))
        return LiftedFeatures(lifted.table[lifted.index[rows]], index)

    def scene(self, index: int) -> StoredScene:
        """A scene on the device."""
        return self._kept[index] if self._kept is not None else self.read(index).to(self.device)

    def stream(self, indices: Iterable[int], workers: int) -> Iterable[StoredScene]:
        """Scenes on the device in that order, read ahead by worker processes unless they are there already."""
        if self._kept is not None or workers == 0:
            return (self.scene(i) for i in indices)
        loader = DataLoader(self, batch_size=None, sampler=indices, num_workers=workers)
        return (scene.to(self.device) for scene in loader)


def class_names(root: str | Path, subsets: Sequence[str]) -> tuple[str, ...]:
    """The names of all classes that scenes of these subsets declare, sorted."""
    names: set[str] = set()
    for subset in subsets:
        for folder in prepared_scenes(root, subset):
            path = folder / "scene.json"
            if path.is_file():
                names |= set(json.loads(path.read_text(encoding="utf-8")).get("classes", ()))
    return tuple(sorted(names))


def draw_sample(
    scene: StoredScene, config: AugmentConfig, default_grid: float, seed: Sequence[int], points: bool
) -> Batch:
    """A random variant of a scene as a batch of one; the same seed gives the same.

    Args:
        default_grid: voxel size for scenes whose Gaussians lie on no grid, metres.
        seed: non-negative integers.
        points: for models that read points.
    """
    host = np.random.default_rng(list(seed))
    device = torch.Generator(scene.normals.device).manual_seed(int(host.integers(2**62)))
    size = scene.voxel_size or default_grid
    made = augment(scene.gaussians, scene.normals, size, config, host, device, scene.seen, scene.views)
    grid_size = size * made.scale * host.uniform(*config.grid)
    return to_batch(scene, made.gaussians, made.normals, made.rows, grid_size, points)


def whole_scene(scene: StoredScene, default_grid: float, points: bool) -> Batch:
    """A scene as it is, as a batch of one."""
    rows = torch.arange(len(scene.gaussians), device=scene.normals.device)
    return to_batch(scene, scene.gaussians, scene.normals, rows, scene.voxel_size or default_grid, points)


def to_batch(
    scene: StoredScene, gaussians: Gaussians, normals: Tensor, rows: Tensor, grid_size: float, points: bool
) -> Batch:
    """Gaussians that stand for ``rows`` of a scene, on a grid of that size."""
    channels = point_channels(gaussians.means, gaussians.colors, normals) if points else gaussian_channels(gaussians)
    voxels = voxelize(gaussians.means, channels, grid_size, gaussians.opacities)
    rows = rows[voxels.representative]
    index = {head: lifted.index[rows] for head, lifted in scene.features.items()}
    return Batch(
        voxels.grid,
        voxels.feat,
        torch.tensor([voxels.grid.shape[0]], device=rows.device),
        scene.segment[rows],
        scene.instance[rows],
        scene.category,
        scene.color,
        {head: _rows(scene.features[head].table, i) for head, i in index.items()},
        {head: i >= 0 for head, i in index.items()},
    )


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table, any of them for -1; a teacher that saw nothing of a scene left a table without rows."""
    return table[index.clamp(min=0)] if len(table) else table.new_zeros((len(index), table.shape[1]))


def collate(parts: Sequence[Batch]) -> Batch:
    """Batches laid end to end."""
    instances, category, color = [], [], []
    for part in parts:
        instances.append(torch.where(part.instance >= 0, part.instance + len(category), -1))
        # Scenes that name no instances still number them: leave room for those.
        blank = [""] * max(int(part.instance.max()) + 1 - len(part.category), 0)
        category += [*part.category, *blank]
        color += [*part.color, *blank]
    return Batch(
        torch.cat([p.grid for p in parts]),
        torch.cat([p.feat for p in parts]),
        torch.cat([p.offset for p in parts]).cumsum(0),
        torch.cat([p.segment for p in parts]),
        torch.cat(instances),
        tuple(category),
        tuple(color),
        {head: torch.cat([p.targets[head] for p in parts]) for head in parts[0].targets},
        {head: torch.cat([p.valid[head] for p in parts]) for head in parts[0].valid},
    )
