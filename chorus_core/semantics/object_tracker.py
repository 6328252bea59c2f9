"""The objects of a map that changes: grouped anew only where something changed, each with a number that stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from chorus_core.config import SemanticsConfig
from chorus_core.mapping.mirror import MapMirror, Touched
from chorus_core.semantics.connectivity import connected_groups_of_kinds
from chorus_core.semantics.objects import SceneObject, make_object
from chorus_core.semantics.vocabulary import STRUCTURE, Vocabulary

NO_OBJECT = 0
"""Number of no object; those of objects begin at 1."""


class ObjectTracker:
    """Objects by number: connected groups of Gaussians of one label, the building's surfaces left out.

    A link between two Gaussians comes or goes only where one of them is in a block that changed. Groups with a member
    there, or within the gap of it, are therefore formed anew, and no others: the result is that of grouping the whole
    map (see the tests). Groups too small for an object are kept, too, as they may grow together.

    An object keeps its number, and when it was first seen, while enough of it stays: a new group continues an old
    object if they share half of the smaller one and the label, or half of the larger one whatever it is called now.

    Attributes:
        objects: by number.
        next_id: number of the next new object.
    """

    def __init__(self, mirror: MapMirror, vocabulary: Vocabulary, config: SemanticsConfig) -> None:
        self._mirror = mirror
        self._vocabulary, self._config = vocabulary, config
        self.objects: dict[int, SceneObject] = {}
        self._clear()

    def _clear(self) -> None:
        # Of each slot: its group (> 0 an object, < 0 a smaller one, 0 none), and of which Gaussian this is said.
        self._said = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._members: dict[int, np.ndarray] = {}  # slots of each group
        self._small = 0  # groups numbered so far
        self.objects = {}
        self.next_id = 1

    def object_of(self, slots: np.ndarray, births: np.ndarray) -> np.ndarray:
        """Number of the object that Gaussians belong to, 0 for none, int64 [N]; readable from any thread."""
        group, known = self._said
        if not len(group):
            return np.zeros(len(slots), np.int64)
        inside = slots < len(group)
        at = np.where(inside, slots, 0)
        return np.where(inside & (known[at] == births), np.maximum(group[at], NO_OBJECT), NO_OBJECT)

    def reconfigure(self, vocabulary: Vocabulary, config: SemanticsConfig) -> None:
        """Other labels or limits; they count from the next :meth:`update` on, which must be of everything."""
        self._vocabulary, self._config = vocabulary, config

    def update(self, touched: Touched) -> None:
        """Follow the mirror after refreshes. What fails changes nothing, and may be tried again."""
        if touched.restarted:
            self._clear()
        if not touched:
            return
        self._reserve()
        group, births = self._said
        near = self._mirror.slots_in(self._mirror.keys_around(touched.keys, self._config.object_gap))
        affected = np.union1d(group[touched.slots], self._groups_of(near))
        self._regroup(affected[affected != 0].tolist(), self._mirror.slots_in(touched.keys))
        gone = touched.slots[self._mirror.births[touched.slots] < 0]
        group[gone], births[gone] = 0, -1

    def adopt(self, slots: np.ndarray, ids: np.ndarray, first_seen: dict[int, int], next_id: int) -> None:
        """Number the objects of a map just read as they were numbered when it was saved.

        Args:
            slots: of its Gaussians [N].
            ids: object of each, 0 for none [N].
            first_seen: of each of these objects, nanoseconds.
            next_id: larger than every number ever given.
        """
        self._reserve()
        there = self._mirror.births[slots] >= 0
        slots, ids = slots[there], ids[there]
        group, births = self._said
        births[slots], group[slots] = self._mirror.births[slots], ids
        for number, seen in first_seen.items():
            members = slots[ids == number]
            label = self._mirror.labels[members]
            if len(members) and label[0] >= 0:
                self._members[number] = members
                self.objects[number] = self._object(number, members, int(label[0]), seen)
        self.next_id = next_id
        self._regroup(list(self._members), self._mirror.handed_out)

    # ---- grouping ---------------------------------------------------------------------------------------------

    def _regroup(self, affected: list[int], slots: np.ndarray) -> None:
        """Form groups anew of the members of some and of further slots."""
        group, births = self._said
        old = {number: self.objects[number] for number in affected if number in self.objects}
        chosen = np.zeros(len(group), bool)
        chosen[slots] = True
        for number in affected:
            chosen[self._members[number]] = True
        pool = np.flatnonzero(chosen & (self._mirror.labels >= 0))  # an empty slot has no label
        before = self._groups_of(pool)
        pool, before = (values[self._counts(self._mirror.labels[pool])] for values in (pool, before))
        groups = connected_groups_of_kinds(self._mirror.means[pool], self._mirror.labels[pool], self._config.object_gap)
        members = _split(groups)
        numbers, next_id = self._number(groups, before, members, pool, old)

        objects = {number: item for number, item in self.objects.items() if number not in old}
        for number, rows in zip(numbers.tolist(), members, strict=True):
            if number > 0:
                seen = old[number].first_seen if number in old else None
                label = int(self._mirror.labels[pool[rows[0]]])
                objects[number] = self._object(number, pool[rows], label, seen)
        targets = np.union1d(slots, pool)
        values = np.zeros(len(targets), np.int64)
        values[np.searchsorted(targets, pool)] = numbers[groups]
        formed = {number: pool[rows] for number, rows in zip(numbers.tolist(), members, strict=True)}
        # All that may fail is done.
        for number in affected:
            del self._members[number]
        self._members |= formed
        self._small, self.next_id, self.objects = self._small + len(members), next_id, objects
        group[targets], births[targets] = values, self._mirror.births[targets]

    def _counts(self, labels: np.ndarray) -> np.ndarray:
        """Which labels [P] are of things, not of the building, bool [P]."""
        structure = {name.casefold() for name in STRUCTURE}
        things = np.array([name.casefold() not in structure for name in self._vocabulary.labels])
        return things[labels]

    def _number(
        self,
        groups: np.ndarray,
        before: np.ndarray,
        members: list[np.ndarray],
        pool: np.ndarray,
        old: dict[int, SceneObject],
    ) -> tuple[np.ndarray, int]:
        """The number of each new group [G], and of the next new object.

        A group has that of the old object that it continues, or a new one; a negative one where it is too small.

        Args:
            groups: new group of each slot of the pool [P].
            before: old group of each [P].
        """
        sizes = np.array([len(rows) for rows in members], np.int64)
        large = sizes >= self._config.min_object_gaussians
        numbers = -1 - self._small - np.arange(len(members))
        taken: set[int] = set()
        for number, group, both in _overlaps(before, groups):
            if number not in old or number in taken or numbers[group] > 0 or not large[group]:
                continue
            label = self._vocabulary.labels[self._mirror.labels[pool[members[group][0]]]]
            least, most = sorted((old[number].count, int(sizes[group])))
            if 2 * both >= (least if label == old[number].label else most):
                numbers[group] = number
                taken.add(number)
        new = np.flatnonzero(large & (numbers < 0))
        new = new[np.argsort(-sizes[new], kind="stable")]
        numbers[new] = self.next_id + np.arange(len(new))
        return numbers, self.next_id + len(new)

    def _object(self, number: int, slots: np.ndarray, label: int, first_seen: int | None) -> SceneObject:
        mirror = self._mirror
        earliest = int(mirror.first_seen[slots].min())
        return make_object(
            self._vocabulary.labels[label], mirror.confidence[slots], mirror.means[slots], slots, id=number,
            first_seen=earliest if first_seen is None else min(first_seen, earliest),
            last_seen=int(mirror.last_seen[slots].max()),
        )  # fmt: skip

    def _groups_of(self, slots: np.ndarray) -> np.ndarray:
        """Group of each slot as far as it is of the Gaussian that is there now, 0 for none, int64 [N]."""
        group, births = self._said
        return np.where(births[slots] == self._mirror.births[slots], group[slots], 0)

    def _reserve(self) -> None:
        group, births = self._said
        more = len(self._mirror.births) - len(group)
        if more > 0:
            self._said = np.pad(group, (0, more)), np.pad(births, (0, more), constant_values=-1)


def _overlaps(before: np.ndarray, groups: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Old object, new group and how many of the pool [P] are in both; the most first, of as many the older object."""
    rows = before > 0
    numbers, first = np.unique(before[rows], return_inverse=True)
    pairs, shared = np.unique(first * (int(groups.max(initial=0)) + 1) + groups[rows], return_counts=True)
    old, new = np.divmod(pairs, int(groups.max(initial=0)) + 1)
    order = np.lexsort((old, -shared))
    yield from zip(numbers[old[order]].tolist(), new[order].tolist(), shared[order].tolist(), strict=True)


def _split(groups: np.ndarray) -> list[np.ndarray]:
    """Places of the members of each group, numbered from 0 on without a gap [P], ascending."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(groups) else []


def by_size(objects: Iterable[SceneObject]) -> list[SceneObject]:
    """The largest first; of two as large, the older."""
    return sorted(objects, key=lambda item: (-item.count, item.id))
