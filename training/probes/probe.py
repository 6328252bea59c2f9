"""A trained probe: classes of the Gaussians of a scene, and how right they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_core.encoder.tiles import tiles
from training.evaluation.prepared_scenes import EvaluationScene
from training.evaluation.segmentation import SegmentationScore
from training.metrics import STRUCTURE
from training.prepared import PreparedScene
from training.probes.data import LabelledScene, VoxelBatch, voxel_batch
from training.probes.networks import SegmentationNetwork

_HALO = 0.8


@dataclass
class Probe:
    """A network that was trained on labels.

    Attributes:
        kind: one of :data:`~training.probes.config.KINDS`.
        network: encoder and head, in evaluation mode.
        names: its classes.
        losses: of each step of training.
    """

    kind: str
    network: SegmentationNetwork
    names: tuple[str, ...]
    losses: list[float] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def predict(self, scene: PreparedScene, max_points: int = 500_000) -> Tensor:
        """Class of each Gaussian, int64 on the probe's device [N]; large scenes in tiles, as the encoder does."""
        self.network.eval()
        labelled = LabelledScene.of(scene, self.network.model.config, self.device)
        out = torch.full((len(labelled),), -1, dtype=torch.int64, device=self.device)
        for region, owned in tiles(labelled.gaussians.means, max_points, _HALO):
            batch = voxel_batch([labelled[region]], self.network.model.config.in_channels)
            out[region[owned]] = logits_of(self.network, batch).argmax(dim=1)[batch.voxel_of_point[owned]]
        return out


def logits_of(network: SegmentationNetwork, batch: VoxelBatch, seed: int = 0) -> Tensor:
    """Logits of a batch's voxels [V, classes]; in bfloat16 arithmetic on CUDA."""
    levels = network.model.hierarchy(batch.grid, batch.offset, seed=seed)
    device = batch.feat.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        return network(batch.feat, levels)


def evaluate_probe(
    probe: Probe,
    scenes: Iterable[EvaluationScene],
    groups: Mapping[str, Collection[str]] | None = None,
    structure: Collection[str] = STRUCTURE,
    upstream_vote: bool = False,
) -> dict[str, Any]:
    """Accuracy on scenes labelled in the probe's classes; the report of
    :class:`~training.evaluation.segmentation.SegmentationScore`."""
    score = SegmentationScore(probe.names, groups, structure, upstream_vote=upstream_vote)
    for scene in scenes:
        score.add(scene, np.asarray(probe.predict(scene.scene).cpu()))
    return score.report()
