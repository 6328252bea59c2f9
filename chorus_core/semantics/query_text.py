"""Checks on text from outside. Text is data: it is encoded, never opened, evaluated or matched against files."""

from __future__ import annotations

import unicodedata

MAX_QUERY_CHARS = 512


class QueryError(ValueError):
    """A query text that is refused; the message says why."""


def find_control(text: str) -> str | None:
    """The first character of a text that has no place in one line of it (as ``U+0007``), or None.

    Controls, lone surrogates, unassigned code points, line and paragraph separators.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs", "Cn", "Zl", "Zp"):
            return f"U+{ord(character):04X}"
    return None


def is_blank(text: str) -> bool:
    """Whether there is nothing to see: only spaces, and characters without width, such as U+200B."""
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in text)


def check_query(text: str, max_chars: int = MAX_QUERY_CHARS, name: str = "query text") -> str:
    """A query text, stripped and NFC-normalised. ``name`` is what messages call it.

    Raises:
        QueryError: not a string, empty, longer than ``max_chars``, or holding control characters.
    """
    if not isinstance(text, str):
        raise QueryError(f"{name} is a {type(text).__name__}: expected a string")
    # Length first: nothing else should look at a text of any length.
    if len(text) > max_chars:
        raise QueryError(f"{name} has {len(text)} characters: expected at most {max_chars}")
    text = unicodedata.normalize("NFC", text.strip())
    if is_blank(text):
        raise QueryError(f"{name} is empty: expected a few words")
    if len(text) > max_chars:
        raise QueryError(f"{name} has {len(text)} characters once normalised: expected at most {max_chars}")
    control = find_control(text)
    if control is not None:
        raise QueryError(f"{name} holds the control character {control}: expected plain text on one line")
    return text
