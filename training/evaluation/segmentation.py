"""Accuracy of a semantic segmentation over scenes: on the Gaussians, and on the ground-truth points they stand for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from training.evaluation.points import vote_in_instances, vote_of_neighbours
from training.evaluation.prepared_scenes import EvaluationScene
from training.metrics import STRUCTURE, class_rows, confusion, summarize

OTHER_FURNITURE = ("other furniture", "otherfurniture")
UPSTREAM_VOTE = "_upstream_vote"
"""Ends the names of figures after the vote within true instances, which leaks labels."""


class SegmentationScore:
    """Confusion tables over all scenes; means are over the classes that the truth has.

    Args:
        names: classes.
        groups: classes whose means are wanted apart.
        structure: classes that foreground means leave out.
        neighbours: that vote for the label of a ground-truth point.
        upstream_vote: score the majority within true instances beside the prediction itself.
    """

    def __init__(
        self,
        names: Sequence[str],
        groups: Mapping[str, Collection[str]] | None = None,
        structure: Collection[str] = STRUCTURE,
        neighbours: int = 25,
        upstream_vote: bool = False,
    ) -> None:
        self.names, self.groups = tuple(names), dict(groups or {})
        self._structure, self._neighbours, self._upstream_vote = frozenset(structure), neighbours, upstream_vote
        self._tables: dict[str, np.ndarray] = {}
        self._scenes = 0

    def add(self, scene: EvaluationScene, predicted: np.ndarray) -> None:
        """Count one scene.

        Args:
            predicted: class of each Gaussian, -1 = none, which is a miss on Gaussians and no vote for points [N].
        """
        gaussians = scene.scene
        self._scenes += 1
        self._count("gaussians", gaussians.segment.cpu().numpy(), gaussians.instance.cpu().numpy(), predicted)
        if scene.points is None:
            return
        means = gaussians.gaussians.means.cpu().numpy()
        carried = vote_of_neighbours(means, predicted, scene.points.points, self._neighbours)
        self._count("points", scene.points.segment, scene.points.instance, carried)

    def report(self) -> dict[str, Any]:
        """The means over ``all`` classes and over each group, and ``classes``, for ``gaussians`` and, where scenes have
        them, ``points``; each also with ``_upstream_vote`` where asked for."""
        found: dict[str, Any] = {"scenes": self._scenes, "vocabulary": len(self.names)}
        for where, table in self._tables.items():
            means = {"all": summarize(table, self.names, structure=self._structure)}
            for group, members in self.groups.items():
                means[group] = summarize(table, self.names, members, self._structure)
            found[where] = {**means, "classes": class_rows(table, self.names)}
        return found

    def _count(self, where: str, truth: np.ndarray, instance: np.ndarray, predicted: np.ndarray) -> None:
        self._add(where, truth, predicted)
        if self._upstream_vote:
            self._add(where + UPSTREAM_VOTE, truth, vote_in_instances(predicted, instance))

    def _add(self, where: str, truth: np.ndarray, predicted: np.ndarray) -> None:
        table = confusion(truth, predicted, len(self.names))
        self._tables[where] = self._tables.get(where, 0) + table
