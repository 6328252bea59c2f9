"""Open-vocabulary instances: class-agnostic proposals named by the text nearest to their mean feature."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.evaluation.average_precision import MIN_POINTS, SceneMatches, instance_report, match_scene
from training.evaluation.points import vote_of_neighbours
from training.evaluation.prepared_scenes import EvaluationScene
from training.evaluation.proposals import proposals_from_features, proposals_from_labels, read_proposals
from training.evaluation.zero_shot import FeatureSource, predict_classes

NOT_INSTANCES = ("wall", "floor")
"""Classes that the ScanNet benchmark has no instances of."""

ProposalSource = Callable[[EvaluationScene, Tensor, Tensor], np.ndarray]
"""Proposal of each Gaussian [N] (negative = none) of a scene, its features [N, d] and the class texts [L, d]."""


@dataclass(frozen=True)
class ProposalConfig:
    """How proposals are made.

    Attributes:
        kind: "segmentation" (components of the predicted classes), "features" (components of like features), or
            "file" (``proposals.npy`` of each scene).
        gap: metres between neighbours; 0 takes two and a half voxels of the map, at least 5 cm.
        similarity: cosine of like features.
        min_points: smaller components are none.
    """

    kind: str = "segmentation"
    gap: float = 0.0
    similarity: float = 0.9
    min_points: int = MIN_POINTS


def proposal_source(config: ProposalConfig) -> ProposalSource:
    """What makes proposals.

    Raises:
        ValueError: no such kind.
    """

    def gap(scene: EvaluationScene) -> float:
        return config.gap or max(2.5 * scene.scene.info.voxel_size, 0.05)

    def from_segmentation(scene: EvaluationScene, features: Tensor, texts: Tensor) -> np.ndarray:
        points = scene.scene.gaussians.means.cpu().numpy()
        return proposals_from_labels(points, predict_classes(features, texts), gap(scene), config.min_points)

    def from_features(scene: EvaluationScene, features: Tensor, texts: Tensor) -> np.ndarray:
        points = scene.scene.gaussians.means.cpu().numpy()
        return proposals_from_features(points, features, gap(scene), config.similarity, config.min_points)

    def from_file(scene: EvaluationScene, features: Tensor, texts: Tensor) -> np.ndarray:
        if scene.folder is None:
            raise ValueError(f"{scene.name}: a scene made in memory has no folder to read proposals from")
        return read_proposals(scene.folder, len(features))

    kinds = {"segmentation": from_segmentation, "features": from_features, "file": from_file}
    if config.kind not in kinds:
        raise ValueError(f"proposals = {config.kind!r}: expected one of {', '.join(kinds)}")
    return kinds[config.kind]


def name_proposals(features: Tensor, proposals: np.ndarray, texts: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class and confidence of each proposal.

    Args:
        features: zero where there are none, which have no part in the mean [N, d].
        proposals: of each Gaussian, negative = none [N].
        texts: of each class, unit [L, d].

    Returns:
        proposals that have a feature, ascending [P]; the class of highest cosine to the mean of the unit features [P];
        that cosine [P].
    """
    known = features.float().norm(dim=1).cpu().numpy() > 0
    ids, row = np.unique(proposals[known & (proposals >= 0)], return_inverse=True)
    unit = torch.nn.functional.normalize(features[torch.from_numpy(known & (proposals >= 0))].float(), dim=1)
    sums = unit.new_zeros((len(ids), features.shape[1])).index_add_(0, torch.from_numpy(row).to(unit.device), unit)
    cosine = torch.nn.functional.normalize(sums, dim=1) @ texts.to(unit).T
    if not len(ids):
        return ids, np.zeros(0, dtype=np.int64), np.zeros(0)
    best = cosine.max(dim=1)
    return ids, best.indices.cpu().numpy(), best.values.double().cpu().numpy()


def match_proposals(
    scene: EvaluationScene,
    features: Tensor,
    proposals: np.ndarray,
    texts: Tensor,
    void: Collection[int],
    min_points: int = MIN_POINTS,
) -> dict[str, SceneMatches]:
    """One scene's proposals against the truth on its ``gaussians``, and where it has them its ``points``, to which
    proposals are carried as labels are: by the vote of the 25 nearest Gaussians, those of no proposal voting too."""
    ids, classes, confidence = name_proposals(features, proposals, texts)
    on = {"gaussians": (proposals, scene.scene.segment.cpu().numpy(), scene.scene.instance.cpu().numpy())}
    if scene.points is not None:
        means = scene.scene.gaussians.means.cpu().numpy()
        carried = vote_of_neighbours(means, np.maximum(proposals, -1) + 1, scene.points.points) - 1
        on["points"] = (carried, scene.points.segment, scene.points.instance)
    return {
        where: match_scene(of_point[None] == ids[:, None], classes, confidence, segment, instance, min_points, void)
        for where, (of_point, segment, instance) in on.items()
    }


def evaluate_instances(
    scenes: Iterable[EvaluationScene],
    features: FeatureSource,
    texts: Tensor,
    names: Sequence[str],
    config: ProposalConfig | None = None,
    groups: Mapping[str, Collection[str]] | None = None,
    not_instances: Collection[str] = NOT_INSTANCES,
) -> dict[str, Any]:
    """Average precision over scenes: for ``gaussians`` and ``points`` what
    :func:`~training.evaluation.average_precision.instance_report` gives.

    Args:
        texts: embedding of each name [L, d].
        not_instances: classes that are no things; proposals named so are dropped, points of theirs are void.
    """
    config = config or ProposalConfig()
    propose = proposal_source(config)
    void = [i for i, name in enumerate(names) if name in not_instances]
    found: dict[str, list[SceneMatches]] = {}
    for scene in scenes:
        given = features(scene.scene)
        proposals = propose(scene, given, texts)
        for where, matches in match_proposals(scene, given, proposals, texts, void, config.min_points).items():
            found.setdefault(where, []).append(matches)
    counted = [name for name in names if name not in not_instances]
    kept = {group: [n for n in members if n in counted] for group, members in (groups or {}).items()}
    return {where: instance_report(matches, names, kept) for where, matches in found.items()}
