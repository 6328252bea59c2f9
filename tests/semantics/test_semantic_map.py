"""Labels by slot: what is published is right after any order of encodes, vocabularies, resets, and failures."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from hashed_encoder import HashedEncoder
from torch import Tensor

from chorus_core.config import SemanticsConfig
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import MapSnapshot
from chorus_core.semantics import semantic_map
from chorus_core.semantics.query_text import QueryError
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.semantic_map import SemanticMap
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary, VocabularyCancelled

FOUR = Vocabulary(("chair", "table", "lamp", "sofa"))
TWO = Vocabulary(("sofa", "chair"))


@pytest.fixture
def semantics() -> SemanticMap:
    return SemanticMap(TextSide({}, {}, HashedEncoder()), FOUR, SemanticsConfig(), torch.device("cpu"))


class HeldEncoder(HashedEncoder):
    """Waits, when told to, before it encodes a certain label."""

    def __init__(self, label: str) -> None:
        self.label, self.hold = label, False
        self.held, self.go_on = threading.Event(), threading.Event()

    def encode(self, texts: Sequence[str]) -> Tensor:
        if self.hold and self.label in texts:
            self.hold = False
            self.held.set()
            assert self.go_on.wait(30)
        return super().encode(texts)


def snapshot(slots: Sequence[int], births: Sequence[int] | None = None) -> MapSnapshot:
    count = len(slots)
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
    gaussians = Gaussians(
        torch.rand(count, 3), quats, torch.full((count, 3), 0.02), torch.ones(count), torch.rand(count, 3)
    )
    return MapSnapshot(gaussians, torch.tensor(slots), torch.tensor(births if births is not None else slots), 1.0)


def named(semantics: SemanticMap, labels: Sequence[str]) -> Tensor:
    """Features that are the texts of labels."""
    known = semantics.text.embed_labels(FOUR)
    return torch.stack([known[FOUR.labels.index(label)] for label in labels])


def shown(semantics: SemanticMap) -> list[str]:
    current = semantics.current
    return [current.vocabulary.labels[i] if i >= 0 else "?" for i in current.labels.tolist()]


def test_a_step_names_what_it_encoded_and_keeps_the_rest(semantics: SemanticMap) -> None:
    whole = snapshot([0, 5, 9])
    semantics.update(whole, torch.tensor([0, 2]), named(semantics, ["lamp", "sofa"]))
    assert shown(semantics) == ["lamp", "?", "sofa"]
    assert semantics.current.encoded == pytest.approx(2 / 3)
    assert not semantics.current.features[1].any()
    semantics.update(whole, torch.tensor([1]), named(semantics, ["table"]))
    assert shown(semantics) == ["lamp", "table", "sofa"]


def test_a_slot_that_is_used_again_has_no_meaning_of_its_old_gaussian(semantics: SemanticMap) -> None:
    semantics.update(snapshot([0, 1], [10, 11]), torch.tensor([0, 1]), named(semantics, ["lamp", "sofa"]))
    semantics.update(snapshot([0, 1, 2], [10, 12, 13]), torch.tensor([2]), named(semantics, ["chair"]))
    assert shown(semantics) == ["lamp", "?", "chair"]


def test_another_vocabulary_names_everything_anew_also_what_is_out_of_sight(semantics: SemanticMap) -> None:
    semantics.update(snapshot([0, 1]), torch.tensor([0, 1]), named(semantics, ["chair", "sofa"]))
    semantics.update(snapshot([1]), torch.tensor([0]), named(semantics, ["sofa"]))
    semantics.set_vocabulary(TWO)
    assert shown(semantics) == ["sofa"]
    semantics.update(snapshot([0, 1]), torch.tensor([1]), named(semantics, ["sofa"]))
    assert shown(semantics) == ["chair", "sofa"]


def test_a_vocabulary_that_fails_changes_nothing(semantics: SemanticMap, monkeypatch: pytest.MonkeyPatch) -> None:
    semantics.update(snapshot([0, 1, 2]), torch.arange(3), named(semantics, ["chair", "sofa", "sofa"]))
    before = semantics.current
    with monkeypatch.context() as patch:
        patch.setattr(semantic_map, "classify", _out_of_memory)
        with pytest.raises(MemoryError):
            semantics.set_vocabulary(TWO)
        with pytest.raises(MemoryError):
            semantics.update(snapshot([0, 3]), torch.tensor([1]), named(semantics, ["lamp"]))
    assert semantics.current is before
    assert semantics.vocabulary is FOUR
    semantics.update(snapshot([0, 1, 2, 3]), torch.tensor([0]), named(semantics, ["table"]))
    assert shown(semantics) == ["table", "sofa", "sofa", "?"]


def test_what_is_encoded_while_a_vocabulary_is_embedded_gets_the_new_labels() -> None:
    encoder = HeldEncoder("sofa")
    semantics = SemanticMap(TextSide({}, {}, encoder), FOUR, SemanticsConfig(), torch.device("cpu"))
    semantics.update(snapshot([0, 1, 2]), torch.arange(3), named(semantics, ["chair", "sofa", "lamp"]))
    encoder.hold = True
    change = threading.Thread(target=semantics.set_vocabulary, args=(TWO,))
    change.start()
    assert encoder.held.wait(30)
    # Slot 0 changes its meaning, slot 1 its Gaussian, slots 2 and 40 are new ones; nothing waits.
    semantics.update(
        snapshot([0, 1, 40], [0, 51, 40]), torch.tensor([0, 1, 2]), semantics.text.embed_labels(FOUR)[[3, 0, 3]]
    )
    assert shown(semantics) == ["sofa", "chair", "sofa"]
    assert semantics.vocabulary is FOUR
    encoder.go_on.set()
    change.join()
    assert semantics.vocabulary is semantics.current.vocabulary is TWO
    assert shown(semantics) == ["sofa", "chair", "sofa"]
    features, embeddings = semantics.current.features, semantics.text.embed_labels(TWO)
    labels, confidence = classify(features, embeddings)
    assert torch.equal(semantics.current.labels, labels)
    assert torch.equal(semantics.current.confidence, confidence)


@pytest.mark.parametrize("already", [True, False])
def test_a_vocabulary_that_is_given_up_changes_nothing(already: bool) -> None:
    encoder = HeldEncoder("name 99")
    semantics = SemanticMap(TextSide({}, {}, encoder), FOUR, SemanticsConfig(), torch.device("cpu"))
    semantics.update(snapshot([0, 1]), torch.arange(2), named(semantics, ["chair", "sofa"]))
    before, cancelled = semantics.current, threading.Event()
    if already:
        cancelled.set()
    else:
        encoder.hold = True
        threading.Thread(target=lambda: (encoder.held.wait(30), cancelled.set(), encoder.go_on.set())).start()
    with pytest.raises(VocabularyCancelled, match="the old vocabulary stays in use"):
        semantics.set_vocabulary(Vocabulary(tuple(f"name {i}" for i in range(1000))), cancelled)
    assert semantics.current is before
    assert semantics.vocabulary is FOUR
    semantics.set_vocabulary(TWO, threading.Event())
    assert shown(semantics) == ["chair", "sofa"]


def test_an_empty_map_takes_a_vocabulary(semantics: SemanticMap) -> None:
    semantics.set_vocabulary(TWO)
    assert semantics.current.vocabulary is TWO


def test_growing_that_fails_is_made_up_for_later(semantics: SemanticMap, monkeypatch: pytest.MonkeyPatch) -> None:
    semantics.update(snapshot([0]), torch.tensor([0]), named(semantics, ["lamp"]))
    calls = []
    grow = Tensor.new_full

    def second_fails(self: Tensor, *arguments: object, **options: object) -> Tensor:
        calls.append(1)
        return _out_of_memory() if len(calls) == 2 else grow(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "new_full", second_fails)
        with pytest.raises(MemoryError):
            semantics.update(snapshot([0, 50]), torch.tensor([1]), named(semantics, ["sofa"]))
    semantics.update(snapshot([0, 50]), torch.tensor([1]), named(semantics, ["sofa"]))
    assert shown(semantics) == ["lamp", "sofa"]


def test_a_restored_map_can_be_named_anew(semantics: SemanticMap) -> None:
    semantics.update(snapshot([4, 7, 2]), torch.tensor([0, 2]), named(semantics, ["chair", "sofa"]))
    saved = semantics.current
    other = SemanticMap(TextSide({}, {}, HashedEncoder()), FOUR, SemanticsConfig(), torch.device("cpu"))
    other.restore(saved)
    assert shown(other) == ["chair", "?", "sofa"]
    assert torch.equal(other.current.features, saved.features)
    assert torch.equal(other.current.confidence, saved.confidence)
    other.set_vocabulary(TWO)
    assert shown(other) == ["chair", "?", "sofa"]


def test_nothing_encoded_is_not_nothing_there(semantics: SemanticMap) -> None:
    with pytest.raises(QueryError, match="nothing of the map is encoded yet"):
        semantics.query("chair")
    semantics.update(snapshot([0]), torch.tensor([0]), named(semantics, ["lamp"]))
    assert semantics.query("chair").objects == []
    semantics.clear()
    with pytest.raises(QueryError):
        semantics.query("chair")


def _out_of_memory(*_: object, **__: object) -> Tensor:
    raise MemoryError
