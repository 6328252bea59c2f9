"""What is known of the map's meaning: a compact feature for each encoded Gaussian, labels, objects, answers.

Features are kept by slot of the map and checked by birth, so that a slot that was carved and used again is never
given another Gaussian's meaning. Readers work on the last published :class:`LabelledMap`, which never changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from chorus_core.config import SemanticsConfig
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import MapSnapshot
from chorus_core.semantics.labelled_map import LabelledMap, QueryResult
from chorus_core.semantics.objects import SceneObject, extract_objects, objects_by_label
from chorus_core.semantics.query_text import QueryError, check_query
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary


class SemanticMap:
    """Features by slot, and the labelled map made of them.

    Args:
        text: the text side of the model that makes the features.
        vocabulary: what Gaussians are labelled with.
        config: thresholds and limits.
        device: where features are kept.
    """

    def __init__(self, text: TextSide, vocabulary: Vocabulary, config: SemanticsConfig, device: torch.device) -> None:
        self.text = text
        self.config = config
        self.device = device
        self._features = torch.zeros((0, text.dim), dtype=torch.float16, device=device)
        self._births = torch.zeros(0, dtype=torch.int64, device=device)
        self._lock = threading.Lock()
        self._vocabulary = vocabulary
        self._label_embeddings = text.embed_labels(vocabulary).to(device)
        self._current = self._empty()

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def current(self) -> LabelledMap:
        """The last published map; safe to read from any thread."""
        return self._current

    def clear(self) -> None:
        with self._lock:
            self._births.fill_(-1)
            self._current = self._empty()

    def restore(self, labelled: LabelledMap) -> None:
        """Publish a map read from a file."""
        if labelled.features.shape[1] != self.text.dim:
            raise ValueError(
                f"the map's features are {labelled.features.shape[1]} wide, the model's text {self.text.dim}"
            )
        with self._lock:
            self._current = labelled

    def update(self, snapshot: MapSnapshot, encoded: Tensor, features: Tensor) -> None:
        """Take in new features and publish the map they belong to.

        Args:
            snapshot: the whole map.
            encoded: which of its Gaussians the features are of [M].
            features: in the model's teacher space [M, D].
        """
        with self._lock:
            slots = snapshot.slots.to(self.device)
            births = snapshot.births.to(self.device)
            self._reserve(int(slots.max()) + 1 if slots.numel() else 0)
            encoded = encoded.to(self.device)
            self._features[slots[encoded]] = self.text.project_features(features.to(self.device))
            self._births[slots[encoded]] = births[encoded]
            known = self._births[slots] == births
            compact = self._features[slots] * known[:, None]
            self._current = self._label(snapshot.gaussians, compact, known, snapshot.stamp)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Label the current map anew."""
        embeddings = self.text.embed_labels(vocabulary).to(self.device)
        with self._lock:
            self._vocabulary, self._label_embeddings = vocabulary, embeddings
            now = self._current
            self._current = self._label(now.gaussians, now.features, now.labels >= 0, now.stamp)

    def objects(self) -> tuple[LabelledMap, list[SceneObject], np.ndarray]:
        """The current map, its objects (the building's surfaces left out), and the object of each Gaussian [N]."""
        current = self._current
        if current._objects is None:
            current._objects = objects_by_label(
                current.gaussians.means.cpu().numpy(), current.labels.cpu().numpy(), current.confidence.cpu().numpy(),
                current.vocabulary, gap=self.config.object_gap, min_count=self.config.min_object_gaussians,
            )  # fmt: skip
        return current, *current._objects

    def query(
        self, text: str, negatives: Sequence[str] = (), threshold: float = 0.0, max_objects: int = 0
    ) -> QueryResult:
        """Where the map agrees with a text.

        Args:
            text: anything; it is encoded, never interpreted otherwise.
            negatives: texts that a match must beat besides the generic ones.
            threshold: relevancy that counts, 0 for the configured or else the model's calibrated one.
            max_objects: 0 for the configured number.

        Raises:
            QueryError: empty, too long or unprintable text, or numbers out of range.
        """
        began = time.perf_counter()
        text = check_query(text, self.config.max_query_chars)
        negatives = [check_query(n, self.config.max_query_chars) for n in negatives]
        limits = check_limits(threshold, max_objects)
        threshold = limits[0] or self.config.threshold or self.text.threshold
        current = self._current
        known = (current.labels >= 0).nonzero().squeeze(1)
        scores = self.text.relevancy(current.features[known], text, negatives)
        matching = scores >= threshold
        matched = known[matching].cpu().numpy()
        scores = scores[matching].cpu().numpy()
        points = current.gaussians.means[matched].cpu().numpy()
        objects = extract_objects(
            points, scores, text, gap=self.config.object_gap, min_count=self.config.min_object_gaussians,
            max_objects=limits[1] or self.config.max_objects,
        )  # fmt: skip
        members = np.concatenate([o.indices for o in objects]) if objects else np.empty(0, np.int64)
        ends = np.cumsum([o.count for o in objects])
        objects = [replace(o, indices=np.arange(end - o.count, end)) for o, end in zip(objects, ends, strict=True)]
        colors = (current.gaussians.colors[matched[members]].cpu().numpy() * 255).round().astype(np.uint8)
        return QueryResult(
            text, float(threshold), objects, points[members].astype(np.float32), colors,
            scores[members].astype(np.float32), current.stamp, time.perf_counter() - began,
        )  # fmt: skip

    def relevancy(self, text: str, negatives: Sequence[str] = ()) -> tuple[LabelledMap, Tensor]:
        """The current map and the relevancy of a text to each Gaussian, 0 where not encoded [N]."""
        current = self._current
        return current, self.text.relevancy(current.features, text, negatives) * (current.labels >= 0)

    def _label(self, gaussians: Gaussians, features: Tensor, known: Tensor, stamp: float) -> LabelledMap:
        labels = torch.full((len(gaussians),), -1, dtype=torch.int64, device=self.device)
        confidence = torch.zeros(len(gaussians), device=self.device)
        if bool(known.any()):
            best, probability = classify(features[known], self._label_embeddings)
            labels[known], confidence[known] = best, probability
        return LabelledMap(gaussians.to(self.device), features, labels, confidence, self._vocabulary, stamp)

    def _reserve(self, slots: int) -> None:
        if slots > self._births.shape[0]:
            grown = max(slots, 2 * self._births.shape[0])
            features = torch.zeros((grown, self._features.shape[1]), dtype=torch.float16, device=self.device)
            births = torch.full((grown,), -1, dtype=torch.int64, device=self.device)
            features[: self._births.shape[0]] = self._features
            births[: self._births.shape[0]] = self._births
            self._features, self._births = features, births

    def _empty(self) -> LabelledMap:
        nothing = torch.zeros(0, device=self.device)
        return LabelledMap(
            Gaussians.empty(self.device), torch.zeros((0, self.text.dim), dtype=torch.float16, device=self.device),
            nothing.long(), nothing, self._vocabulary, 0.0,
        )  # fmt: skip


def check_limits(threshold: float, max_objects: int) -> tuple[float, int]:
    """Numbers of a query, checked; raises QueryError naming the one out of range."""
    if not np.isfinite(threshold) or not 0.0 <= threshold <= 1.0:
        raise QueryError(f"threshold {threshold}: expected a number in [0, 1] (0 for the calibrated default)")
    if max_objects < 0:
        raise QueryError(f"max_objects {max_objects}: expected 0 (default) or more")
    return float(threshold), int(max_objects)
