"""Prepared scenes for evaluation: their labels in the classes asked for, and the features a model gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from chorus_core.config import EncoderConfig
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.features import OrientedPoints, encode_features, encoding_grid
from chorus_core.encoder.inputs import POINT_CHANNELS
from chorus_core.io.documents import read_json
from chorus_core.io.errors import reading
from chorus_core.io.scene_folder import SceneFolderError
from training.datasets.base import LabelledPoints
from training.evaluation.points import load_points
from training.prepared import PreparedScene, load_prepared


@dataclass(frozen=True)
class EvaluationScene:
    """A prepared scene whose labels are places in one list of classes.

    Attributes:
        scene: with ``segment`` remapped.
        points: labelled points, ``segment`` remapped as well; None where the scene has none.
        folder: where it came from; None for scenes made in memory.
    """

    scene: PreparedScene
    points: LabelledPoints | None = None
    folder: Path | None = None

    @property
    def name(self) -> str:
        return self.scene.info.name


def load_scenes(folders: Sequence[Path], names: Sequence[str], heads: Sequence[str] = ()) -> Iterator[EvaluationScene]:
    """Scenes in the order of their folders, one in memory at a time.

    Args:
        names: classes to evaluate on. A scene's labels are matched to them by name; classes that are not among them
            become "ignore". A scene that names no classes is taken to count through ``names`` itself.
        heads: whose lifted features to read.

    Raises:
        SceneFolderError: a scene cannot be read, or its labels are not in its classes.
    """
    for folder in tqdm(folders, desc="scenes", disable=None):
        scene = load_prepared(folder, heads)
        yield EvaluationScene(*with_classes(scene, load_points(folder, scene.info), names), folder)


def with_classes(
    scene: PreparedScene, points: LabelledPoints | None, names: Sequence[str]
) -> tuple[PreparedScene, LabelledPoints | None]:
    """A scene and its points with ``segment`` as places in ``names``, -1 where the class is not among them.

    Raises:
        SceneFolderError: a label lies beyond the scene's classes.
    """
    place = {name: i for i, name in enumerate(names)}
    classes = scene.info.classes or tuple(names)
    table = np.array([place.get(name, -1) for name in classes] + [-1], dtype=np.int64)  # the last is for "ignore"

    def remap(segment: np.ndarray, what: str) -> np.ndarray:
        if len(segment) and segment.max() >= len(classes):
            raise SceneFolderError(
                f"{scene.info.name}: {what} has the class {segment.max()}: expected less than {len(classes)}"
            )
        return table[np.maximum(segment, -1)]

    info = replace(scene.info, classes=tuple(names))
    segment = torch.from_numpy(remap(scene.segment.cpu().numpy(), "segment"))
    if points is not None:
        points = replace(points, segment=remap(points.segment, "points"), classes=tuple(names))
    return replace(scene, info=info, segment=segment), points


def scene_classes(folders: Sequence[Path]) -> tuple[str, ...]:
    """All classes that scenes name, in order of first appearance.

    Raises:
        SceneFolderError: no scene names any, or a description is unreadable.
    """
    names: dict[str, None] = {}
    for folder in folders:
        path = folder / "scene.json"
        try:
            tree = read_json(path, error=SceneFolderError) if path.is_file() else {}
        except OSError as error:
            raise SceneFolderError(f"{path}: {error.strerror}") from error
        with reading(path, SceneFolderError):
            names |= dict.fromkeys(tree.get("classes", ()))
    if not names:
        raise SceneFolderError(f"{folders[0].parent}: no scene.json names classes: give a file of classes (--classes)")
    return tuple(names)


def encode_scene(
    encoder: ChorusEncoder,
    scene: PreparedScene,
    head: str | None = "lang",
    grid_size: float | None = None,
    smoothing: int = 0,
) -> Tensor:
    """Features of each Gaussian, whichever input the model reads.

    A model of 9 channels reads the Gaussians' centres, colours and the scene's normals as points.

    Args:
        head: teacher space; None gives the upcast features.
        grid_size: metres; :func:`~chorus_core.encoder.features.encoding_grid` by default.
        smoothing: rounds of averaging over neighbouring voxels, as the pipeline does; none in the paper's protocol.

    Returns:
        float16 on the encoder's device [N, d].
    """
    g, options = scene.gaussians, replace(EncoderConfig(), smoothing=smoothing)
    points = encoder.model.config.in_channels == POINT_CHANNELS
    read = OrientedPoints(g.means, g.colors, scene.normals) if points else g
    grid_size = grid_size or encoding_grid(encoder, scene.info.voxel_size)
    return encode_features(encoder, read, options, head=head, grid_size=grid_size)


def lifted_scene(scene: PreparedScene, head: str) -> Tensor:
    """The features that were lifted from 2D, without a 3D encoder, float16 [N, d]; zero where there are none.

    Raises:
        SceneFolderError: the scene has no lifted features for that head.
    """
    if head not in scene.features:
        raise SceneFolderError(f"{scene.info.name}: no lifted features {head!r}; there are {sorted(scene.features)}")
    lifted = scene.features[head]
    features = lifted.table[lifted.index.clamp(min=0)]
    return torch.where((lifted.index >= 0)[:, None], features, torch.zeros_like(features))
