"""Generated test rooms as a robot knows them after few frames, for comparing encoders with direct lifting.

Direct lifting (ConceptFusion, RayFronts) gives each Gaussian the mean of what a 2D teacher says of the pixels it shows
in, with no 3D encoder. Both are asked on the same map, built from the same frames, and are smoothed alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from chorus_core.config import EncoderConfig, MapConfig
from chorus_core.distillation.lifting import Lifter
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.features import encode_features, encoding_grid
from chorus_core.encoder.smoothing import smooth
from chorus_core.frames import RgbdFrame
from chorus_core.gaussians import Gaussians
from chorus_core.io.documents import read_json
from chorus_core.io.folders import open_numbered_folder
from chorus_core.mapping import GaussianMap
from chorus_core.rendering import View, contributions
from chorus_core.teachers.base import Teacher
from training.evaluation.encoded import EncodedScene
from training.evaluation.surface import carry_labels
from training.language import LanguageTargets
from training.scenes.views import load_surface


@dataclass
class Room:
    """A map of a room from few frames.

    Attributes:
        name: of the room.
        gaussians: of the map, on the CPU.
        frames: it was made from.
        category: place in the language bank, -1 unlabelled, int64 [N].
        instance: -1 unlabelled, int64 [N].
        object_ids: model of each instance.
        voxel_size: metres.
    """

    name: str
    gaussians: Gaussians
    frames: list[RgbdFrame]
    category: np.ndarray
    instance: np.ndarray
    object_ids: list[str]
    voxel_size: float

    def with_features(self, features: Tensor) -> EncodedScene:
        """The room with features [N, D] on their device."""
        points = self.gaussians.means.numpy()
        return EncodedScene(self.name, points, features, self.category, self.instance, self.object_ids, self.voxel_size)


def few_view_rooms(
    folder: Path,
    subset: str,
    views: int,
    voxel_size: float,
    bank: LanguageTargets,
    device: torch.device | str = "cpu",
) -> Iterator[Room]:
    """The rooms of a subset, each mapped from ``views`` frames spread evenly over its tour.

    Args:
        folder: of ``training.scenes.generate --keep-views``.
        device: where maps are built.

    Raises:
        FileNotFoundError: the folder has no room of that subset with views.
    """
    stems = sorted(p.with_suffix("") for p in folder.glob(f"{subset}_*.json") if p.with_suffix("").is_dir())
    if not stems:
        raise FileNotFoundError(f"{folder}: expected rooms {subset}_*.json with views beside them")
    known = {category: place for place, category in enumerate(bank.categories)}
    for stem in stems:
        sequence = open_numbered_folder(stem)
        places = np.unique(np.linspace(0, len(sequence) - 1, min(views, len(sequence))).round().astype(int))
        frames = [sequence[int(i)] for i in places]
        gaussians = _map(frames, voxel_size, device)
        points, surface_instance = load_surface(stem)
        instance = carry_labels(points, surface_instance, gaussians.means.numpy(), 0.02 + voxel_size)
        instances = read_json(stem.with_suffix(".json"))["instances"]
        category_of = np.array([known.get(i["category"], -1) for i in instances])
        category = np.where(instance >= 0, category_of[np.maximum(instance, 0)], -1)
        ids = [i["object_id"] for i in instances]
        yield Room(stem.name, gaussians, frames, category, instance, ids, voxel_size)


def _map(frames: Sequence[RgbdFrame], voxel_size: float, device: torch.device | str) -> Gaussians:
    built = GaussianMap(dataclasses.replace(MapConfig(), voxel_size=voxel_size, min_share=0.0), device)
    for frame in frames:
        built.integrate(frame)
    return built.export().gaussians.to("cpu")


@torch.inference_mode()
def lift_directly(room: Room, teacher: Teacher, device: torch.device, head: str = "lang") -> Tensor:
    """What the teacher says of each Gaussian, unit features [N, D]; unseen ones take their nearest neighbour's.

    They are smoothed as the encoder's are.
    """
    gaussians = room.gaussians.to(device)
    lifter = Lifter(len(gaussians), teacher.heads[head], device)
    for frame in room.frames:
        table = teacher.tables(torch.from_numpy(frame.color)[None])[head][0]
        lifter.add(contributions(gaussians, View(frame.intrinsics, frame.world_from_camera)), table)
    features, valid = lifter.features(min_weight=1e-3, unit=True)
    if bool(valid.any()) and not bool(valid.all()):
        points, said = room.gaussians.means.numpy(), valid.cpu().numpy()
        nearest = np.flatnonzero(said)[cKDTree(points[said]).query(points[~said])[1]]
        features[~valid] = features[torch.from_numpy(nearest).to(device)]
    return smooth(features.float(), room.gaussians.means, room.voxel_size, EncoderConfig().smoothing)


def encode_room(room: Room, encoder: ChorusEncoder, head: str = "lang") -> Tensor:
    """The encoder's features of each Gaussian [N, D]."""
    grid_size = encoding_grid(encoder, room.voxel_size)
    return encode_features(encoder, room.gaussians, head=head, grid_size=grid_size)
