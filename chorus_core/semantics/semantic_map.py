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
from chorus_core.semantics.vocabulary import Vocabulary, check_cancelled

_SIMILARITIES_AT_ONCE = 1 << 27
"""Of Gaussians with labels while a map is labelled anew: about a second on one core."""


class SemanticMap:
    """Features and labels by slot, and the labelled map made of them.

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
        self._labels = torch.zeros(0, dtype=torch.int64, device=device)
        self._confidence = torch.zeros(0, device=device)
        self._births = torch.zeros(0, dtype=torch.int64, device=device)
        self._lock = threading.Lock()
        self._vocabulary = vocabulary
        self._label_embeddings = text.embed_labels(vocabulary).to(device)
        self._publish(_nothing(device))

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def current(self) -> LabelledMap:
        """The last published map; safe to read from any thread."""
        return self._current

    def reconfigure(self, config: SemanticsConfig) -> None:
        """Take other thresholds and limits; the map is published anew, because objects may differ."""
        with self._lock:
            self.config = config
            self._publish(self._snapshot)

    def clear(self) -> None:
        with self._lock:
            self._births.fill_(-1)
            self._publish(_nothing(self.device))

    def restore(self, labelled: LabelledMap) -> None:
        """Publish a map read from a file, with its labels, which are of this vocabulary."""
        if labelled.features.shape[1] != self.text.dim:
            raise ValueError(
                f"the map's features are {labelled.features.shape[1]} wide, the model's text {self.text.dim}"
            )
        with self._lock:
            numbers = torch.arange(len(labelled), device=self.device)
            self._reserve(len(labelled))
            self._births.fill_(-1)
            known = labelled.labels.to(self.device) >= 0
            self._births[: len(labelled)] = torch.where(known, numbers, -1)
            self._features[: len(labelled)] = labelled.features.to(self.device)
            self._labels[: len(labelled)] = labelled.labels.to(self.device)
            self._confidence[: len(labelled)] = labelled.confidence.to(self.device)
            self._publish(MapSnapshot(labelled.gaussians.to(self.device), numbers, numbers, labelled.stamp))

    def update(self, snapshot: MapSnapshot, encoded: Tensor, features: Tensor) -> None:
        """Take in new features and publish the map they belong to.

        Args:
            snapshot: the whole map.
            encoded: which of its Gaussians the features are of [M].
            features: in the compact space of the text side [M, d].
        """
        with self._lock:
            self._reserve(int(snapshot.slots.max()) + 1 if snapshot.slots.numel() else 0)
            features = features.to(self.device, torch.float16)
            labels, confidence = classify(features, self._label_embeddings)  # before anything is written: it may fail
            encoded = encoded.to(snapshot.slots.device)
            slots = snapshot.slots[encoded].to(self.device)
            self._features[slots] = features
            self._labels[slots], self._confidence[slots] = labels, confidence
            self._births[slots] = snapshot.births[encoded].to(self.device)
            self._publish(snapshot)

    def set_vocabulary(self, vocabulary: Vocabulary, cancelled: threading.Event | None = None) -> None:
        """Label the current map anew.

        Texts are embedded and features compared with them while updates and queries go on under the old vocabulary;
        then all is exchanged at once. Of several calls at a time, the last to finish counts.

        Raises:
            VocabularyCancelled: ``cancelled`` was set in time; nothing has changed.
        """
        embeddings = self.text.embed_labels(vocabulary, cancelled).to(self.device)
        with self._lock:
            slots = (self._births >= 0).nonzero().squeeze(1)
            features = self._features[slots]  # a copy
        labels, confidence = self._classify(features, embeddings, cancelled)
        with self._lock:
            all_labels, all_confidence = torch.zeros_like(self._labels), torch.zeros_like(self._confidence)
            all_labels[slots], all_confidence[slots] = labels, confidence
            stale = self._births >= 0
            stale[slots] &= (self._features[slots] != features).any(1)
            stale = stale.nonzero().squeeze(1)  # encoded since the copy was made
            all_labels[stale], all_confidence[stale] = classify(self._features[stale], embeddings)
            # All that may fail is done; from here on the new vocabulary counts.
            self._vocabulary, self._label_embeddings = vocabulary, embeddings
            self._labels, self._confidence = all_labels, all_confidence
            self._publish(self._snapshot)

    def _classify(
        self, features: Tensor, embeddings: Tensor, cancelled: threading.Event | None
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, _SIMILARITIES_AT_ONCE // len(embeddings))
        parts = []
        for part in features.split(rows):  # of no features, one part without rows
            check_cancelled(cancelled, "the map was labelled")
            parts.append(classify(part, embeddings))
        labels, confidence = zip(*parts, strict=True)
        return torch.cat(labels), torch.cat(confidence)

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
            QueryError: empty, too long or unprintable text, numbers out of range, or nothing is encoded yet.
        """
        began = time.perf_counter()
        text = check_query(text, self.config.max_query_chars)
        negatives = [
            check_query(n, self.config.max_query_chars, f"negative text {place}") for place, n in enumerate(negatives)
        ]
        limits = check_limits(threshold, max_objects)
        threshold = limits[0] or self.config.threshold or self.text.threshold
        current = self._current
        known = current.labels >= 0
        if not bool(known.any()):  # not the same as "it is not there"
            raise QueryError("nothing of the map is encoded yet: ask again when it is")
        # of all: to pick the features of those that are known would copy them, which takes longer than this
        relevancy = self.text.relevancy(current.features, text, negatives)
        matched = (known & (relevancy >= threshold)).nonzero().squeeze(1)
        scores = relevancy[matched].cpu().numpy()
        matched = matched.cpu().numpy()
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

    def _publish(self, snapshot: MapSnapshot) -> None:
        """Put together what is known of the Gaussians of a snapshot."""
        slots, births = snapshot.slots.to(self.device), snapshot.births.to(self.device)
        known = self._births[slots] == births
        self._snapshot = snapshot
        self._current = LabelledMap(
            gaussians=snapshot.gaussians.to(self.device),
            features=self._features[slots] * known[:, None],
            labels=torch.where(known, self._labels[slots], -1),
            confidence=self._confidence[slots] * known,
            vocabulary=self._vocabulary,
            stamp=snapshot.stamp,
        )

    def _reserve(self, slots: int) -> None:
        held = self._births.shape[0]
        if slots <= held:
            return
        larger = {}
        for name in ("_features", "_labels", "_confidence", "_births"):
            old = getattr(self, name)
            larger[name] = old.new_full((max(slots, 2 * held), *old.shape[1:]), -1 if name == "_births" else 0)
            larger[name][:held] = old
        for name, array in larger.items():  # all or none, should memory have run out above
            setattr(self, name, array)


def _nothing(device: torch.device) -> MapSnapshot:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    return MapSnapshot(Gaussians.empty(device), none, none, 0)


def check_limits(threshold: float, max_objects: int) -> tuple[float, int]:
    """Numbers of a query, checked; raises QueryError naming the one out of range."""
    if not np.isfinite(threshold) or not 0.0 <= threshold <= 1.0:
        raise QueryError(f"threshold {threshold}: expected a number in [0, 1] (0 for the calibrated default)")
    if max_objects < 0:
        raise QueryError(f"max_objects {max_objects}: expected 0 (default) or more")
    return float(threshold), int(max_objects)
