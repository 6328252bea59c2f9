"""Labels by slot: what is handed out is right after any order of encodes, vocabularies, resets, and failures."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch
from hashed_encoder import HashedEncoder
from torch import Tensor

from chorus_core.config import Config, MapConfig, SemanticsConfig, parse
from chorus_core.gaussians import Gaussians
from chorus_core.mapping import GaussianMap, MapSnapshot
from chorus_core.semantics import semantic_map
from chorus_core.semantics.query_text import QueryError
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.semantic_map import SemanticMap
from chorus_core.semantics.text_encoder import TextEncoder
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary, VocabularyCancelled

FOUR = Vocabulary(("chair", "table", "lamp", "sofa"))
TWO = Vocabulary(("sofa", "chair"))
SINGLE = parse(Config, {"semantics.min_object_gaussians": 1}).semantics


def with_map(count: int, encoder: TextEncoder | None = None, config: SemanticsConfig = SINGLE) -> SemanticMap:
    """A map of so many Gaussians, a metre apart along +x, without meaning."""
    side = TextSide({}, {}, encoder or HashedEncoder())
    map_ = GaussianMap(MapConfig(), feature_dim=side.dim)
    add(map_, range(count))
    return SemanticMap(map_, side, FOUR, config)


def add(map_: GaussianMap, places: Sequence[int], stamp: int = 1) -> None:
    count = len(places)
    means = torch.zeros(count, 3)
    means[:, 0] = torch.tensor(places) + 0.01
    quats = torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(count, 1)
    map_.insert(Gaussians(means, quats, torch.full((count, 3), 0.02), torch.ones(count), torch.rand(count, 3)), stamp)


def take(map_: GaussianMap, row: int) -> None:
    map_.store.advance()
    map_.store.release(map_.export().slots[row : row + 1])


@pytest.fixture
def semantics() -> SemanticMap:
    return with_map(3)


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


def rows(semantics: SemanticMap, *which: int) -> MapSnapshot:
    """What an encoder read of some of the Gaussians."""
    return semantics.map.export()[torch.tensor(which, dtype=torch.int64)]


def named(semantics: SemanticMap, *labels: str) -> Tensor:
    """Features that are the texts of labels."""
    known = semantics.text.embed_labels(FOUR)
    return torch.stack([known[FOUR.labels.index(label)] for label in labels])


def texts(semantics: SemanticMap, *queries: str) -> Tensor:
    """Features that queries agree with: labels are embedded in sentences."""
    return semantics.text.embed_texts(queries)


def shown(semantics: SemanticMap) -> list[str]:
    current = semantics.labelled()
    return [current.vocabulary.labels[i] if i >= 0 else "?" for i in current.labels.tolist()]


def test_a_step_names_what_it_encoded_and_keeps_the_rest(semantics: SemanticMap) -> None:
    semantics.update(rows(semantics, 0, 2), named(semantics, "lamp", "sofa"))
    assert shown(semantics) == ["lamp", "?", "sofa"]
    assert (semantics.encoded, semantics.labelled().encoded) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert not semantics.labelled().features[1].any()
    semantics.update(rows(semantics, 1), named(semantics, "table"))
    assert shown(semantics) == ["lamp", "table", "sofa"]


def test_a_copy_stays_as_it_is_and_is_shared_while_nothing_changes(semantics: SemanticMap) -> None:
    semantics.update(rows(semantics, 0, 2), named(semantics, "lamp", "sofa"))
    before = semantics.labelled()
    assert semantics.labelled() is before
    features = before.features.clone()
    semantics.update(rows(semantics, 0), named(semantics, "table"))
    assert semantics.labelled() is not before
    assert torch.equal(before.features, features)
    assert before.labels.tolist() == [2, -1, 3]


def test_a_slot_that_is_used_again_has_no_meaning_of_its_old_gaussian(semantics: SemanticMap) -> None:
    read = rows(semantics, 0, 1)
    semantics.update(read, named(semantics, "lamp", "sofa"))
    take(semantics.map, 1)
    add(semantics.map, [7])
    assert shown(semantics) == ["lamp", "?", "?"]
    semantics.update(read, named(semantics, "chair", "chair"))
    assert shown(semantics) == ["chair", "?", "?"], "what was read is gone, and its slot is another's"


def test_another_vocabulary_names_everything_anew(semantics: SemanticMap) -> None:
    semantics.update(rows(semantics, 0, 1), named(semantics, "chair", "sofa"))
    semantics.set_vocabulary(TWO)
    assert shown(semantics) == ["chair", "sofa", "?"]
    semantics.update(rows(semantics, 2), named(semantics, "sofa"))
    assert shown(semantics) == ["chair", "sofa", "sofa"]


def test_a_vocabulary_that_fails_changes_nothing(semantics: SemanticMap, monkeypatch: pytest.MonkeyPatch) -> None:
    semantics.update(rows(semantics, 0, 1), named(semantics, "chair", "sofa"))
    before = semantics.labelled()
    with monkeypatch.context() as patch:
        patch.setattr(semantic_map, "classify", _out_of_memory)
        with pytest.raises(MemoryError):
            semantics.set_vocabulary(TWO)
        with pytest.raises(MemoryError):
            semantics.update(rows(semantics, 2), named(semantics, "lamp"))
    assert semantics.labelled() is before
    assert semantics.vocabulary is FOUR
    semantics.update(rows(semantics, 0), named(semantics, "table"))
    assert shown(semantics) == ["table", "sofa", "?"]


def test_what_is_encoded_while_a_vocabulary_is_embedded_gets_the_new_labels() -> None:
    encoder = HeldEncoder("sofa")
    semantics = with_map(4, encoder)
    semantics.update(rows(semantics, 0, 1, 2), named(semantics, "chair", "sofa", "lamp"))
    encoder.hold = True
    change = threading.Thread(target=semantics.set_vocabulary, args=(TWO,))
    change.start()
    assert encoder.held.wait(30)
    # One changes its meaning, one goes, one is new, one gets a meaning; nothing waits.
    take(semantics.map, 1)
    add(semantics.map, [9])
    semantics.update(rows(semantics, 0, 1, 3), semantics.text.embed_labels(FOUR)[[3, 0, 3]])
    assert shown(semantics) == ["sofa", "chair", "lamp", "sofa"]
    assert semantics.vocabulary is FOUR
    encoder.go_on.set()
    change.join()
    current = semantics.labelled()
    assert semantics.vocabulary is current.vocabulary is TWO
    assert shown(semantics)[:2] == ["sofa", "chair"]
    labels, confidence = classify(current.features, semantics.text.embed_labels(TWO))
    assert torch.equal(current.labels, labels)
    assert torch.equal(current.confidence, confidence)


@pytest.mark.parametrize("during", ["embedding", "comparing"])
def test_a_map_that_begins_anew_meanwhile_takes_the_vocabulary(during: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = HeldEncoder("sofa")
    semantics = with_map(3, encoder)
    semantics.update(rows(semantics, 0, 1), named(semantics, "chair", "sofa"))

    def begin_anew() -> None:
        semantics.map.clear()
        add(semantics.map, [5])
        semantics.update(rows(semantics, 0), named(semantics, "sofa"))

    if during == "embedding":
        encoder.hold = True
        threading.Thread(target=lambda: (encoder.held.wait(30), begin_anew(), encoder.go_on.set())).start()
    else:
        compare = semantics._classify
        monkeypatch.setattr(semantics, "_classify", lambda *a: (compare(*a), begin_anew())[0])
    semantics.set_vocabulary(TWO)
    assert shown(semantics) == ["sofa"]
    assert semantics.labelled().vocabulary is TWO


@pytest.mark.parametrize("already", [True, False])
def test_a_vocabulary_that_is_given_up_changes_nothing(already: bool) -> None:
    encoder = HeldEncoder("name 99")
    semantics = with_map(2, encoder)
    semantics.update(rows(semantics, 0, 1), named(semantics, "chair", "sofa"))
    before, cancelled = semantics.labelled(), threading.Event()
    if already:
        cancelled.set()
    else:
        encoder.hold = True
        threading.Thread(target=lambda: (encoder.held.wait(30), cancelled.set(), encoder.go_on.set())).start()
    with pytest.raises(VocabularyCancelled, match="the old vocabulary stays in use"):
        semantics.set_vocabulary(Vocabulary(tuple(f"name {i}" for i in range(1000))), cancelled)
    assert semantics.labelled() is before
    assert semantics.vocabulary is FOUR
    semantics.set_vocabulary(TWO, threading.Event())
    assert shown(semantics) == ["chair", "sofa"]


def test_an_empty_map_takes_a_vocabulary() -> None:
    semantics = with_map(0)
    semantics.set_vocabulary(TWO)
    assert semantics.labelled().vocabulary is TWO
    assert shown(semantics) == []


def test_nothing_encoded_is_not_nothing_there(semantics: SemanticMap) -> None:
    with pytest.raises(QueryError, match="nothing of the map is encoded yet"):
        semantics.query("chair")
    semantics.update(rows(semantics, 0), named(semantics, "lamp"))
    assert semantics.query("chair", threshold=0.99).objects == []
    semantics.map.clear()
    with pytest.raises(QueryError):
        semantics.query("chair")


def test_an_answer_says_which_object_of_which_map_it_is_and_when_it_was_seen(semantics: SemanticMap) -> None:
    semantics.update(rows(semantics, 0, 1, 2), texts(semantics, "lamp", "sofa", "lamp"))
    add(semantics.map, [0], stamp=9)
    with semantics.rows() as shown_rows:
        numbers = {tuple(item.centroid.round().astype(int)): item.id for item in shown_rows.objects}
    result = semantics.query("sofa", threshold=0.9)
    assert [item.id for item in result.objects] == [numbers[1, 0, 0]] != [0]
    assert result.map_id == semantics.map.map_id
    lamps = {item.id: (item.first_seen, item.last_seen) for item in semantics.query("lamp", threshold=0.9).objects}
    assert lamps == {numbers[0, 0, 0]: (1, 9), numbers[2, 0, 0]: (1, 1)}


def test_a_copy_answers_as_the_live_map(semantics: SemanticMap) -> None:
    semantics.update(rows(semantics, 0, 2), texts(semantics, "lamp", "lamp"))
    semantics.follow()
    live = semantics.query("lamp", threshold=0.9)
    copied = semantic_map.answer_query(semantics.labelled(), semantics.text, SINGLE, "lamp", threshold=0.9)
    assert [(o.id, o.first_seen, o.last_seen) for o in live.objects] == (
        [(o.id, o.first_seen, o.last_seen) for o in copied.objects]
    )
    assert live.points.tolist() == copied.points.tolist()
    assert live.colors.tolist() == copied.colors.tolist()
    assert (live.map_id, live.scores.tolist()) == (copied.map_id, copied.scores.tolist())


@pytest.mark.parametrize("change", ["encoded", "gone", "anew"])
def test_an_answer_is_of_the_map_as_it_is_at_the_end(
    semantics: SemanticMap, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features are read without a lock: what is written meanwhile is read again."""
    semantics.update(rows(semantics, 0, 1), texts(semantics, "lamp", "sofa"))
    scorer, done = TextSide.scorer, []

    def interrupted(side: TextSide, *query: object) -> object:
        score = scorer(side, *query)

        def scored(features: Tensor) -> Tensor:
            found = score(features)
            if not done:
                done.append(True)
                if change == "encoded":
                    semantics.update(rows(semantics, 0, 1, 2), texts(semantics, "sofa", "lamp", "lamp"))
                elif change == "gone":
                    take(semantics.map, 0)
                    add(semantics.map, [9])
                else:
                    semantics.map.clear()
                    add(semantics.map, [4, 6])
                    semantics.update(rows(semantics, 1), texts(semantics, "lamp"))
            return found

        return scored

    monkeypatch.setattr(TextSide, "scorer", interrupted)
    found = semantics.query("lamp", threshold=0.9)
    expected = {"encoded": [1, 2], "gone": [], "anew": [6]}[change]
    assert sorted(found.points[:, 0].round().astype(int).tolist()) == expected


def _out_of_memory(*_: object, **__: object) -> Tensor:
    raise MemoryError


def test_objects_that_nobody_asks_for_take_a_part_of_the_time(
    semantics: SemanticMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, formed = [100.0], []
    monkeypatch.setattr(semantic_map.time, "monotonic", lambda: now[0])
    update = semantics._tracker.update

    def slow(touched: object) -> None:
        formed.append(now[0])
        now[0] += 3.0  # seconds that it takes
        update(touched)

    monkeypatch.setattr(semantics._tracker, "update", slow)
    semantics.update(rows(semantics, 0), named(semantics, "lamp"))
    for moment in (100.0, 104.0, 110.0, 114.0, 116.0, 120.0):
        now[0] = max(now[0], moment)
        semantics.keep_up()
    assert formed == [100.0, 116.0]
    semantics.update(rows(semantics, 1), named(semantics, "sofa"))
    semantics.keep_up()
    assert semantics.object_count == 1
    assert semantics.encoded == pytest.approx(2 / 3), "rows are brought up to date at once"
    with semantics.rows() as shown_rows:  # who asks gets all there are
        assert len(shown_rows.objects) == 2
