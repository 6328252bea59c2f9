from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_core.semantics.query_text import QueryError, check_query


@pytest.mark.parametrize(
    "text", ["chair", "  something to sit on\n", "café au lait", "椅子", "../../etc/passwd", "{label} $(ls)"]
)
def test_plain_text_passes_unchanged_but_for_the_ends(text: str) -> None:
    assert check_query(text) == text.strip()


def test_joiners_within_words_stay() -> None:
    assert check_query("می\u200cخواهم") == "می\u200cخواهم"


def test_messages_name_the_text() -> None:
    with pytest.raises(QueryError, match=r"^negative text 1 is empty: expected a few words$"):
        check_query(" ", name="negative text 1")


def test_is_nfc_normalised() -> None:
    assert check_query("cafe\u0301") == "caf\u00e9"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \t\n ", "empty"),
        ("\u200b\ufeff \u200d", "empty"),
        ("a" * 10_000, "10000 characters"),
        ("chair\x07", "U+0007"),
        ("chair\nsofa", "U+000A"),
        ("chair\x00", "U+0000"),
        ("chair\u2028sofa", "U+2028"),
        ("\ud800", "U+D800"),
        (7, "int"),
        (b"chair", "bytes"),
        (None, "NoneType"),
    ],
)
def test_refused(text: object, reason: str) -> None:
    with pytest.raises(QueryError, match=reason.replace("+", r"\+")):
        check_query(text)  # type: ignore[arg-type]


def test_length_is_checked_after_normalising_too() -> None:
    grows = "\u0958" * 300  # decomposes under NFC: a composition exclusion
    assert len(unicodedata.normalize("NFC", grows)) == 600
    with pytest.raises(QueryError, match="once normalised"):
        check_query(grows, max_chars=512)


@given(st.text(max_size=80))
def test_accepts_or_refuses_and_is_idempotent(text: str) -> None:
    try:
        checked = check_query(text, max_chars=64)
    except QueryError:
        return
    assert 0 < len(checked) <= 64
    assert check_query(checked, max_chars=64) == checked
