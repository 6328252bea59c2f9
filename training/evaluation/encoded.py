"""Generated scenes with the features a model gives them, and label accuracy over them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.features import encode_features, encoding_grid
from chorus_core.semantics.relevancy import classify
from training.language import LanguageTargets
from training.metrics import confusion, summarize
from training.scenes.assets import MADE_CATEGORIES, Split
from training.scenes.scene_file import load_scene

logger = logging.getLogger(__name__)


@dataclass
class EncodedScene:
    """A labelled scene and its features.

    Attributes:
        name: of its file.
        points: metres, float32 [N, 3].
        features: of the model's head, float16 on the CPU [N, D].
        category: place in the language bank, -1 unlabelled, int64 [N].
        instance: -1 unlabelled, int64 [N].
        object_ids: model of each instance.
        voxel_size: of its map, metres.
    """

    name: str
    points: np.ndarray
    features: Tensor
    category: np.ndarray
    instance: np.ndarray
    object_ids: list[str]
    voxel_size: float

    def present(self, least: int) -> list[int]:
        """Categories with at least so many Gaussians."""
        categories, counts = np.unique(self.category[self.category >= 0], return_counts=True)
        return categories[counts >= least].tolist()


def encode_scenes(
    encoder: ChorusEncoder, folder: Path, subset: str, bank: LanguageTargets, head: str = "lang"
) -> Iterator[EncodedScene]:
    """The scenes of one subset in a folder, encoded on their own grid, in order of their names.

    Raises:
        FileNotFoundError: the folder has no scene of that subset.
    """
    paths = sorted(folder.glob(f"{subset}_*.npz"))
    if not paths:
        raise FileNotFoundError(f"{folder}: expected scenes {subset}_*.npz of training.scenes.generate")
    for path in tqdm(paths, desc=f"encode {subset}", disable=None):
        scene = load_scene(path)
        voxel = float(scene.facts["voxel_size"])
        grid = encoding_grid(encoder, voxel)
        features = encode_features(encoder, scene.gaussians, head=head, grid_size=grid).cpu()
        known = {category: place for place, category in enumerate(bank.categories)}
        if foreign := sorted({i.category for i in scene.instances} - set(known)):
            logger.warning("%s: %s not in the language bank, taken as unlabelled", path.stem, ", ".join(foreign))
        category_of = np.array([known.get(i.category, -1) for i in scene.instances])
        instance = scene.instance.numpy()
        category = np.where(instance >= 0, category_of[np.maximum(instance, 0)], -1)
        ids = [i.object_id for i in scene.instances]
        yield EncodedScene(path.stem, scene.gaussians.means.numpy(), features, category, instance, ids, voxel)


@dataclass(frozen=True)
class Unseen:
    """What training did not see.

    Attributes:
        objects: ids of models that only validation and test scenes hold.
        categories: names (of the language bank) no training scene holds.
    """

    objects: frozenset[str]
    categories: frozenset[str]

    @classmethod
    def of(cls, split: Split, trained: frozenset[str], bank: LanguageTargets) -> Unseen:
        """From the split of the models, and the keys of the categories training scenes hold."""
        names = dict(zip(bank.categories, bank.names, strict=True))
        unseen = frozenset(name for key, name in names.items() if key not in trained | MADE_CATEGORIES)
        return cls(frozenset(i for i, subset in split.subset_of.items() if subset != "train"), unseen)


class SceneAccuracy:
    """Confusion tables over scenes, for four ways of asking.

    ``seen`` and ``held_back`` are means over those categories' IoU with every labelled Gaussian counted.
    ``seen_instances`` and ``unseen_instances`` split the Gaussians of trained categories by whether their model was
    trained on; only the Gaussians of the group are counted, for misses and false alarms alike.
    """

    GROUPS = ("seen", "seen_instances", "unseen_instances", "held_back")

    def __init__(self, names: Sequence[str], unseen: Unseen) -> None:
        self.names, self.unseen = tuple(names), unseen
        self._seen = frozenset(names) - unseen.categories
        self._tables = {group: self._zeros() for group in ("all", "seen_instances", "unseen_instances")}
        self._of_scene: list[dict[str, float]] = []

    def add(self, scene: EncodedScene, predicted: np.ndarray) -> None:
        """Count one scene; ``predicted`` are places in the names [N]."""
        new = np.array([i in self.unseen.objects for i in scene.object_ids])[np.maximum(scene.instance, 0)]
        trained = np.array([name in self._seen for name in self.names])[np.maximum(scene.category, 0)]
        chosen = {
            "all": np.ones_like(new),
            "seen_instances": ~new & trained,
            "unseen_instances": new & trained,
        }
        tables = {
            group: confusion(np.where(mask, scene.category, -1), predicted, len(self.names))
            for group, mask in chosen.items()
        }
        for group, table in tables.items():
            self._tables[group] += table
        self._of_scene.append(self._means(tables))

    def report(self) -> dict[str, Any]:
        """Over all Gaussians of all scenes, and mean and standard deviation over scenes."""
        over_scenes = {}
        for key in sorted({key for row in self._of_scene for key in row}):
            values = np.array([row[key] for row in self._of_scene if not np.isnan(row.get(key, np.nan))])
            if len(values):
                over_scenes[key] = {"mean": float(values.mean()), "std": float(values.std()), "scenes": len(values)}
        pooled = {group: self._summary(self._tables, group) for group in self.GROUPS}
        return {"scenes": len(self._of_scene), "pooled": pooled, "over_scenes": over_scenes}

    def _summary(self, tables: dict[str, np.ndarray], group: str) -> dict[str, float]:
        if group in tables:
            return summarize(tables[group], self.names)
        return summarize(tables["all"], self.names, self._seen if group == "seen" else self.unseen.categories)

    def _means(self, tables: dict[str, np.ndarray]) -> dict[str, float]:
        summaries = {group: self._summary(tables, group) for group in self.GROUPS}
        return {f"{group}.{key}": s[key] for group, s in summaries.items() for key in ("miou", "f_miou")}

    def _zeros(self) -> np.ndarray:
        return np.zeros((len(self.names), len(self.names) + 1), dtype=np.int64)


def predict(features: Tensor, names: Tensor) -> np.ndarray:
    """The most similar name [L, d] of each feature [N, d]: int64 [N]."""
    return classify(features, names)[0].cpu().numpy()
