"""Prepared scenes, and batches of them on the encoder's grid."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from chorus_core.encoder.hierarchy import Level
from chorus_core.encoder.inputs import gaussian_channels, point_channels, voxelize
from chorus_core.encoder.model import ModelConfig
from chorus_core.gaussians import Gaussians
from chorus_core.io.documents import read_json
from training.augment import AugmentConfig, augment
from training.prepared import LiftedFeatures, load_prepared, prepared_scenes

T = TypeVar("T")


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


@dataclass
class Batch:
    """Several scenes on the encoder's grid, one after the other.

    Everything on the CPU until :meth:`to`; the geometry of the pass is part of it, so that processes that read ahead
    compute it.

    Attributes:
        grid: integer coordinates [V, 3].
        feat: input channels [V, 11] of Gaussians or [V, 9] of points.
        offset: cumulative scene sizes [B].
        segment: class of each voxel, -1 = ignore [V].
        instance: instance of each voxel among those of the batch, -1 = ignore [V].
        category, color: words of the batch's instances, "" where unknown [I].
        targets: for each head the teacher's features [V, D], undefined where not valid.
        valid: for each head where it says something, bool [V].
        levels: geometry of the encoder pass, finest first; none until :func:`with_levels`.
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
    levels: list[Level] = field(default_factory=list)

    def to(self, device: torch.device) -> Batch:
        """A copy there; without waiting, where the batch lies in pinned memory."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """A copy in memory that a GPU can read while the CPU goes on (``DataLoader`` calls it)."""
        return map_tensors(self, torch.Tensor.pin_memory)


class SceneStore(Dataset):
    """The scenes of one subset of a prepared data set. Feature tables stay on disk until rows of them are used.

    Args:
        root: holds ``<subset>/<scene>/``.
        subset: whose scenes.
        heads: whose lifted features are needed.
        classes: names in the order of the class table.
        keep: read all scenes now and keep them (all but their features), which processes that are forked then share;
            otherwise each is read whenever it is asked for.

    Raises:
        SceneFolderError: there are no scenes, or (to keep) one is malformed or lacks a head's features.
    """

    def __init__(
        self, root: str | Path, subset: str, heads: Collection[str], classes: Sequence[str], keep: bool = False
    ) -> None:
        self.folders = prepared_scenes(root, subset)
        self.heads = tuple(heads)
        self.classes = tuple(classes)
        self._place = {name: i for i, name in enumerate(self.classes)}
        self._kept: list[StoredScene] = []
        if keep:
            self._kept = [self._read(folder) for folder in tqdm(self.folders, desc=f"read {subset}", disable=None)]

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int) -> StoredScene:
        """A scene.

        Raises:
            SceneFolderError: it is malformed or lacks a head's features.
        """
        return self._kept[index] if self._kept else self._read(self.folders[index])

    def _read(self, folder: Path) -> StoredScene:
        prepared = load_prepared(folder, self.heads)
        info = prepared.info
        table = torch.tensor([self._place.get(name, -1) for name in info.classes] + [-1])
        return StoredScene(
            prepared.gaussians,
            prepared.normals,
            # Without names classes are what they are: the numbers of a table that all scenes share.
            table[prepared.segment] if info.classes else prepared.segment,
            prepared.instance,
            prepared.features,
            info.voxel_size,
            tuple(i.category for i in info.instances),
            tuple(i.color for i in info.instances),
            prepared.seen,
            63 if prepared.seen is None else max(1, int(prepared.seen.max()).bit_length()),
        )


def map_tensors(tree: T, change: Callable[[Tensor], Tensor]) -> T:
    """A copy of nested dataclasses, lists and dictionaries with every tensor changed."""
    if isinstance(tree, Tensor):
        return change(tree)
    if is_dataclass(tree):
        return replace(tree, **{f.name: map_tensors(getattr(tree, f.name), change) for f in fields(tree)})
    if isinstance(tree, list):
        return [map_tensors(item, change) for item in tree]
    if isinstance(tree, dict):
        return {key: map_tensors(item, change) for key, item in tree.items()}
    return tree


def class_names(root: str | Path, subsets: Sequence[str]) -> tuple[str, ...]:
    """The names of all classes that scenes of these subsets declare, sorted."""
    names: set[str] = set()
    for subset in subsets:
        for folder in prepared_scenes(root, subset):
            path = folder / "scene.json"
            if path.is_file():
                names |= set(read_json(path).get("classes", ()))
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


def with_levels(batch: Batch, model: ModelConfig, curves: Sequence[Sequence[int]] | None = None) -> Batch:
    """The batch with the geometry of a pass through that model; curves as for :meth:`ModelConfig.hierarchy`."""
    return replace(batch, levels=model.hierarchy(batch.grid, batch.offset, curves))
