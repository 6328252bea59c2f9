"""The map with its meaning as of one moment: what files hold, pictures show, and figures are computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from chorus_core.gaussians import Gaussians
from chorus_core.semantics.objects import SceneObject
from chorus_core.semantics.query import Matches
from chorus_core.semantics.vocabulary import Vocabulary


@dataclass
class LabelledMap:
    """A copy of a map with its meaning, which never changes.

    Attributes:
        gaussians: N Gaussians, world frame.
        features: compact text-aligned features, fp16 [N, d]; zero where not encoded yet.
        labels: place in the vocabulary, -1 where not encoded yet, int64 [N].
        confidence: of the label, in [0, 1] [N].
        vocabulary: what the labels name.
        stamp: of the last frame in it, nanoseconds.
        map_id: UUID of the map; empty for a scene that no robot mapped.
        objects: things in it, the largest first; their ``indices`` are rows.
        next_object: number of the next new object.
        first_seen, last_seen: stamps of the first and last frame that measured each, nanoseconds, int64 [N].
    """

    gaussians: Gaussians
    features: Tensor
    labels: Tensor
    confidence: Tensor
    vocabulary: Vocabulary
    stamp: int
    map_id: str = ""
    objects: list[SceneObject] = field(default_factory=list)
    next_object: int = 1
    first_seen: np.ndarray | None = None
    last_seen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.gaussians)

    @property
    def encoded(self) -> float:
        """Share of Gaussians that have features, in [0, 1]; 0 for an empty map."""
        return float((self.labels >= 0).float().mean()) if len(self) else 0.0

    @property
    def instances(self) -> np.ndarray:
        """Number of the object of each Gaussian, -1 for none, int32 [N]."""
        found = np.full(len(self), -1, np.int32)
        for item in self.objects:
            found[item.indices] = item.id
        return found

    def matching(self, score: Callable[[Tensor], Tensor], threshold: float) -> Matches | None:
        """See :class:`chorus_core.semantics.query.Searchable`."""
        known = self.labels >= 0
        if not bool(known.any()):
            return None
        # Of all: to pick the features of those that are known would copy them, which takes longer than this.
        relevancy = score(self.features)
        rows = (known & (relevancy >= threshold)).nonzero().squeeze(1)
        host = rows.cpu().numpy()
        seen = [np.zeros(len(host), np.int64) if s is None else s[host] for s in (self.first_seen, self.last_seen)]
        return Matches(
            points=self.gaussians.means[rows].cpu().numpy(),
            colors=(self.gaussians.colors[rows].clamp(0, 1) * 255).round().byte().cpu().numpy(),
            scores=relevancy[rows].cpu().numpy(),
            objects=np.maximum(self.instances[host], 0),
            first_seen=seen[0],
            last_seen=seen[1],
        )
