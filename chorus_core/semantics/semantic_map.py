"""The meaning of a map that changes: features and labels go in with what was encoded, answers and objects come out.

Features and labels lie in the map's own blocks, beside the geometry. Readers take what changed since their own cursor,
so that a step costs what changed and not what there is.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from chorus_core.config import SemanticsConfig
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import GaussianMap, MapMirror, MapSnapshot
from chorus_core.mapping.gaussian_state import COLOR, MEAN
from chorus_core.mapping.mirror import NOTHING
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.object_tracker import ObjectTracker, by_size
from chorus_core.semantics.objects import SceneObject, objects_by_label
from chorus_core.semantics.query import Matches, QueryResult, answer_query
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary, check_cancelled

_TRACKING_SHARE = 0.2
"""Of the time, at most, in which objects are formed that nobody waits for."""

_SIMILARITIES_AT_ONCE = 1 << 27
"""Of Gaussians with labels while a map is labelled anew: about a second on one core."""


@dataclass(frozen=True)
class Version:
    """What is shown of a map: it differs whenever anything in it does."""

    map_id: str
    revision: int
    vocabulary: Vocabulary
    config: SemanticsConfig


@dataclass(frozen=True)
class MapRows:
    """The map's rows and its objects, on the host; valid within :meth:`SemanticMap.rows`.

    Attributes:
        mirror: rows by slot.
        tracker: objects by number.
        vocabulary: what the labels name.
        version: of all this.
    """

    mirror: MapMirror
    tracker: ObjectTracker
    vocabulary: Vocabulary
    version: Version

    @property
    def objects(self) -> list[SceneObject]:
        """Things in the map, the largest first; their ``indices`` are slots."""
        return by_size(self.tracker.objects.values())


class SemanticMap:
    """Meaning of one map.

    Three locks, taken in this order: of who writes labels, of the host's copy, and the map's own, which is never held
    while features are compared or objects formed.

    Args:
        map_: features and labels are kept in it.
        text: the text side of the model that makes the features.
        vocabulary: what Gaussians are labelled with.
        config: thresholds and limits.

    Attributes:
        stamp: of the last frame that an encode saw, nanoseconds; 0 before the first.
    """

    def __init__(self, map_: GaussianMap, text: TextSide, vocabulary: Vocabulary, config: SemanticsConfig) -> None:
        self.map = map_
        self.text = text
        self.config = config
        self.device = map_.device
        self.stamp = 0
        self._vocabulary = vocabulary
        self._label_embeddings = text.embed_labels(vocabulary).to(self.device)
        self._write_lock = threading.Lock()
        self._rows_lock = threading.RLock()
        self._mirror = MapMirror(map_)
        self._tracker = ObjectTracker(self._mirror, vocabulary, config)
        self._untracked = NOTHING  # what the rows know and the objects do not yet
        self._tracking = 0.0, 0.0  # when objects were formed last, and how long it took, seconds
        self._copy: weakref.ref[LabelledMap] | None = None
        self._copied: Version | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def map_id(self) -> str:
        return self.map.map_id

    @property
    def version(self) -> Version:
        """Of the map as it is now."""
        return Version(self.map.map_id, self.map.store.revision, self._vocabulary, self.config)

    @property
    def encoded(self) -> float:
        """Share of the Gaussians handed out that have features as of the last look at the rows, in [0, 1]."""
        return self._mirror.labelled / self._mirror.count if self._mirror.count else 0.0

    @property
    def object_count(self) -> int:
        """Objects in the map as of the last look at the rows."""
        return len(self._tracker.objects)

    # ---- what goes in -----------------------------------------------------------------------------------------

    def update(self, snapshot: MapSnapshot, features: Tensor, model_revision: int = 1) -> None:
        """Keep the features of encoded Gaussians, and label them.

        Args:
            snapshot: M Gaussians of the map.
            features: in the compact space of the text side [M, d].
            model_revision: of the model that made them.
        """
        with self._write_lock:
            features = features.to(self.device, torch.float16)
            labels, confidence = classify(features, self._label_embeddings)
            with self.map.lock:
                self.map.describe(snapshot.slots, snapshot.births, features, labels, confidence, model_revision)
                self.stamp = snapshot.stamp

    def label(self, gaussians: Gaussians, features: Tensor) -> LabelledMap:
        """Gaussians of elsewhere [N], and their features [N, d], as a labelled map of its own."""
        labels, confidence = classify(features, self._label_embeddings)
        labelled = LabelledMap(gaussians, features, labels, confidence, self._vocabulary, 0)
        found, _ = objects_by_label(
            gaussians.means.cpu().numpy(), labels.cpu().numpy(), confidence.cpu().numpy(), self._vocabulary,
            gap=self.config.object_gap, min_count=self.config.min_object_gaussians,
        )  # fmt: skip
        labelled.objects = [replace(item, id=number) for number, item in enumerate(found, 1)]
        labelled.next_object = len(found) + 1
        return labelled

    def set_vocabulary(self, vocabulary: Vocabulary, cancelled: threading.Event | None = None) -> None:
        """Label the map anew.

        Texts are embedded and features compared with them while updates and queries go on under the old vocabulary;
        then all is exchanged at once. Of several calls at a time, the last to finish counts.

        Raises:
            VocabularyCancelled: ``cancelled`` was set in time; nothing has changed.
        """
        embeddings = self.text.embed_labels(vocabulary, cancelled).to(self.device)
        with self.map.lock:
            cursor, features = self.map.cursor, self.map.store.features
            slots = (self.map.store.labels >= 0).nonzero().squeeze(1)
        labels, confidence = self._classify(features, slots, embeddings, cancelled)
        with self._write_lock, self._rows_lock:
            with self.map.lock:
                store, news = self.map.store, self.map.changes_since(cursor, "features")
                written = store.slots_in(news.blocks)
                written = written[store.labels[written] >= 0]
                written_labels, written_confidence = classify(store.features[written], embeddings)
                # All that may fail is done; from here on the new vocabulary counts.
                if not news.restarted:
                    kept = store.labels[slots] >= 0
                    self.map.relabel(slots[kept], labels[kept], confidence[kept])
                self.map.relabel(written, written_labels, written_confidence)
                self._vocabulary, self._label_embeddings = vocabulary, embeddings
                self._tracker.reconfigure(vocabulary, self.config)
            self._regroup_all()

    def _classify(
        self, features: Tensor, slots: Tensor, embeddings: Tensor, cancelled: threading.Event | None
    ) -> tuple[Tensor, Tensor]:
        """Labels and confidence of some slots; features that are written meanwhile are read again afterwards."""
        rows = max(1, _SIMILARITIES_AT_ONCE // len(embeddings))
        parts = []
        for part in slots.split(rows):  # of no slots, one part without rows
            check_cancelled(cancelled, "the map was labelled")
            parts.append(classify(features[part], embeddings))
        labels, confidence = zip(*parts, strict=True)
        return torch.cat(labels), torch.cat(confidence)

    def reconfigure(self, config: SemanticsConfig) -> None:
        """Take other thresholds and limits; objects are formed anew."""
        with self._rows_lock:
            self.config = config
            self._tracker.reconfigure(self._vocabulary, config)
            self._regroup_all()

    # ---- what comes out ---------------------------------------------------------------------------------------

    def query(
        self, text: str, negatives: Sequence[str] = (), threshold: float = 0.0, max_objects: int = 0
    ) -> QueryResult:
        """Where the map agrees with a text; see :func:`chorus_core.semantics.query.answer_query`."""
        return answer_query(self, self.text, self.config, text, negatives, threshold, max_objects)

    def matching(self, score: Callable[[Tensor], Tensor], threshold: float) -> Matches | None:
        """See :class:`chorus_core.semantics.query.Searchable`.

        Features are scored while others write. What was written meanwhile is scored again under the map's lock, so
        that the answer is of the map as it is at the end.
        """
        map_, store = self.map, self.map.store
        with map_.lock:
            cursor, features = map_.cursor, store.features[: store.used]
        scores = score(features)
        with map_.lock:
            changes = map_.changes_since(cursor, "features")
            rows = torch.arange(store.used, device=self.device)
            if changes.restarted:
                scores = score(store.features[: store.used])
            else:
                scores = torch.nn.functional.pad(scores, (0, store.used - len(scores)), value=-1.0)
                written = store.slots_in(changes.blocks)
                scores[written] = score(store.features[written])
            labelled = store.labels[: store.used] >= 0
            if not bool(labelled.any()):
                return None
            rows = rows[labelled & (scores >= threshold)]
            rows = rows[map_.is_sure(rows)]
            state = store.state[rows]
            slots, births = rows.cpu().numpy(), store.birth[rows].cpu().numpy()
            return Matches(
                points=state[:, MEAN].cpu().numpy(),
                colors=(state[:, COLOR].clamp(0, 1) * 255).round().byte().cpu().numpy(),
                scores=scores[rows].cpu().numpy(),
                objects=self._objects_of(slots, births),
                first_seen=store.first_seen[rows].cpu().numpy(),
                last_seen=store.last_seen[rows].cpu().numpy(),
            )

    def _objects_of(self, slots: np.ndarray, births: np.ndarray) -> np.ndarray:
        if self._mirror.cursor.map_id != self.map.map_id:  # the objects are still those of the map before
            return np.zeros(len(slots), np.int64)
        return self._tracker.object_of(slots, births)

    @contextmanager
    def rows(self) -> Iterator[MapRows]:
        """The map's rows and objects as of now; they stay as they are within the block."""
        with self._rows_lock:
            self._follow()
            cursor = self._mirror.cursor
            version = Version(cursor.map_id, cursor.revision, self._vocabulary, self.config)
            yield MapRows(self._mirror, self._tracker, self._vocabulary, version)

    def follow(self) -> None:
        """Take into rows and objects what changed in the map."""
        with self._rows_lock:
            self._follow()

    def keep_up(self) -> None:
        """The same in passing, after a step: objects, which may take long, are formed in a part of the time only."""
        with self._rows_lock:
            self._refresh()
            began, took = self._tracking
            if time.monotonic() - began > took / _TRACKING_SHARE:
                self._follow()

    def _regroup_all(self) -> None:
        self._refresh()
        self._untracked = self._untracked.then(self._mirror.everything())
        self._follow()

    def _refresh(self) -> None:
        self._untracked = self._untracked.then(self._mirror.refresh())

    def _follow(self) -> None:
        self._refresh()
        began = time.monotonic()
        self._tracker.update(self._untracked)
        self._untracked, self._tracking = NOTHING, (began, time.monotonic() - began)

    def labelled(self) -> LabelledMap:
        """A copy of the whole map with its meaning; the last one while it is in use and nothing has changed."""
        with self._rows_lock:
            last = self._copy() if self._copy is not None else None
            if last is not None and self._copied == self.version:
                return last
            self._follow()
            with self.map.lock:
                snapshot = self.map.export()
                store, slots = self.map.store, snapshot.slots
                labels = store.labels[slots].long()
                known = labels >= 0
                copied = LabelledMap(
                    gaussians=snapshot.gaussians,
                    features=store.features[slots] * known[:, None],
                    labels=labels,
                    confidence=store.confidence[slots] * known,
                    vocabulary=self._vocabulary,
                    stamp=self.map.stamp,
                    map_id=self.map.map_id,
                    first_seen=store.first_seen[slots].cpu().numpy(),
                    last_seen=store.last_seen[slots].cpu().numpy(),
                )
                version = self.version
            host = slots.cpu().numpy()
            copied.objects = [_by_row(item, host) for item in by_size(self._tracker.objects.values())]
            copied.next_object = self._tracker.next_id
            self._copy, self._copied = weakref.ref(copied), version
            return copied

    def forget(self) -> None:
        """The map has begun anew, without meaning."""
        self.stamp = 0
        self.follow()

    def adopt(self, saved: LabelledMap, slots: np.ndarray) -> None:
        """The map was read from a file: take over its objects, and label it with the words in use, not the saved ones.

        Args:
            saved: what the file held, N Gaussians.
            slots: of these in the map [N].
        """
        with self._write_lock, self._rows_lock:
            with self.map.lock:
                self.stamp = saved.stamp
                if saved.vocabulary.labels != self._vocabulary.labels:
                    known = (self.map.store.labels >= 0).nonzero().squeeze(1)
                    self.map.relabel(known, *classify(self.map.store.features[known], self._label_embeddings))
            self._mirror = MapMirror(self.map)
            self._tracker = ObjectTracker(self._mirror, self._vocabulary, self.config)
            self._untracked = NOTHING
            self._mirror.refresh()
            first_seen = {item.id: item.first_seen for item in saved.objects}
            self._tracker.adopt(slots, np.maximum(saved.instances, 0), first_seen, saved.next_object)


def _by_row(item: SceneObject, slots: np.ndarray) -> SceneObject:
    """An object by rows of a copy of some slots, ascending [N]; a frame may have taken some since it was formed."""
    rows = np.searchsorted(slots, item.indices)
    rows = rows[slots[np.minimum(rows, len(slots) - 1)] == item.indices] if len(slots) else rows[:0]
    return replace(item, indices=rows)
