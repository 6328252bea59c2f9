from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.semantics.vocabulary import (
    MAX_LABELS,
    PROMPTS,
    STRUCTURE,
    Vocabulary,
    VocabularyError,
    encode_labels,
    load_vocabulary,
    shipped_vocabularies,
)


class LengthEncoder:
    """A text encoder one can compute by hand: a text's length and its number of spaces."""

    name, dim = "length", 2

    def encode(self, texts: list[str]) -> torch.Tensor:
        vectors = torch.tensor([[len(text), text.count(" ") + 1] for text in texts], dtype=torch.float32)
        return torch.nn.functional.normalize(vectors, dim=-1)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ((), "0 labels"),
        (("chair", " "), "label 1 is empty"),
        (("chair", "\u200b"), "label 1 is empty"),
        (("chair", "sofa", "Chair "), "label 2 'Chair' repeats label 0 'chair'"),
        (("a" * 81,), "81 characters"),
        (("cha\x1bir",), r"U\+001B"),
        (("chair", 3), "label 1 is a int"),
        ("chair", "expected a sequence"),
        (tuple(map(str, range(MAX_LABELS + 1))), "8193 labels: expected 1 to 8192"),
    ],
)
def test_bad_labels_are_named(labels: tuple[str, ...], reason: str) -> None:
    with pytest.raises(VocabularyError, match=reason):
        Vocabulary(labels)


def test_labels_are_normalised() -> None:
    assert Vocabulary((" cafe\u0301 table ",)).labels == ("caf\u00e9 table",)


def test_the_most_labels_that_fit_are_allowed() -> None:
    assert len(Vocabulary(tuple(map(str, range(MAX_LABELS))))) == MAX_LABELS


def test_colors_follow_the_label_not_its_place() -> None:
    a, b = Vocabulary(("chair", "sofa", "lamp")), Vocabulary(("lamp", "wall", "chair"))
    assert a.colors.dtype == np.uint8
    assert a.colors.shape == (3, 3)
    np.testing.assert_array_equal(a.colors[0], b.colors[2])
    np.testing.assert_array_equal(a.colors[2], b.colors[0])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2000))
def test_colors_are_distinct_and_visible(count: int) -> None:
    colors = Vocabulary(tuple(f"label {i}" for i in range(count))).colors
    assert len(np.unique(colors, axis=0)) == count
    assert colors.max(1).min() > 150


@pytest.mark.parametrize("name", shipped_vocabularies())
def test_shipped_vocabularies_are_valid_and_hold_the_building(name: str) -> None:
    assert set(load_vocabulary(name).labels) >= STRUCTURE


def test_shipped_names() -> None:
    assert set(shipped_vocabularies()) >= {"indoor", "house", "chorus_mini"}
    assert len(load_vocabulary("indoor")) >= 180


def test_house_vocabulary_is_that_of_the_house(shared: Path) -> None:
    import csv

    with (shared / "assets" / "house" / "scene.csv").open() as file:
        labels = {row["label"] for row in csv.DictReader(file)}
    assert set(load_vocabulary("house").labels) == labels | {"wall", "floor", "ceiling"}


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# a comment\nchair\n\n  sofa  \r\n", encoding="utf-8")
    assert load_vocabulary(path).labels == ("chair", "sofa")
    assert load_vocabulary(str(path)).labels == ("chair", "sofa")


def test_a_byte_order_mark_is_not_part_of_the_first_label(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbfchair\r\nsofa\r\n")
    assert load_vocabulary(path).labels == ("chair", "sofa")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.txt"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(VocabularyError, match=r"huge\.txt' has 1099511627776 bytes: expected at most"):
        load_vocabulary(path)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"chair\nchair\n", b"\xff\xfe\x00", b"cha\x07ir\n"])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match=r"bad\.txt"):
        load_vocabulary(path)


@pytest.mark.parametrize("name", ["outdoor", "", "../house", "no\0name"])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(VocabularyError, match="house"):
        load_vocabulary(name)


def test_label_embeddings_average_the_prompts() -> None:
    vocabulary, encoder = Vocabulary(("chair", "{0} tv {label}")), LengthEncoder()
    encoded = encode_labels(vocabulary, encoder)
    for label, row in zip(vocabulary.labels, encoded, strict=True):
        mean = encoder.encode([prompt.replace("{label}", label) for prompt in PROMPTS]).mean(0)
        torch.testing.assert_close(row, mean / mean.norm())
    torch.testing.assert_close(encoded.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("prompts", [(), ("a chair",)])
def test_prompts_must_take_the_label(prompts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="label"):
        encode_labels(Vocabulary(("chair",)), LengthEncoder(), prompts)
