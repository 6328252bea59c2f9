"""The map with its meaning as of one moment, and the answer to a question about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.semantics.objects import SceneObject
from chorus_core.semantics.vocabulary import Vocabulary


@dataclass
class LabelledMap:
    """A map with its meaning as of one encode.

    Attributes:
        gaussians: N Gaussians, world frame.
        features: compact text-aligned features, fp16 [N, d]; zero where not encoded yet.
        labels: place in the vocabulary, -1 where not encoded yet, int64 [N].
        confidence: of the label, in [0, 1] [N].
        vocabulary: what the labels name.
        stamp: of the last frame in it, nanoseconds.
    """

    gaussians: Gaussians
    features: Tensor
    labels: Tensor
    confidence: Tensor
    vocabulary: Vocabulary
    stamp: int
    _objects: tuple[list[SceneObject], np.ndarray] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.gaussians)

    @property
    def encoded(self) -> float:
        """Share of Gaussians that have features, in [0, 1]; 0 for an empty map."""
        return float((self.labels >= 0).float().mean()) if len(self) else 0.0


@dataclass
class QueryResult:
    """Answer to a text query.

    Attributes:
        text: as it was understood.
        threshold: relevancy that counted as a match.
        objects: groups of matching Gaussians, best first; empty where nothing matches. Their ``indices`` are places in
            ``points``.
        points: centres of the matching Gaussians that belong to objects, metres, float32 [M, 3].
        colors: of these, uint8 [M, 3].
        scores: relevancy of these, in [0, 1], float32 [M].
        map_stamp: of the map asked, nanoseconds.
        seconds: taken.
    """

    text: str
    threshold: float
    objects: list[SceneObject]
    points: np.ndarray
    colors: np.ndarray
    scores: np.ndarray
    map_stamp: int
    seconds: float
