"""A checked list of labels, their colours, and their embeddings."""

from __future__ import annotations

import colorsys
import hashlib
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from chorus_core.io.errors import ReadError
from chorus_core.semantics.query_text import find_control, is_blank
from chorus_core.semantics.text_encoder import CachedTextEncoder, TextEncoder

MAX_LABELS = 8192
"""Labels of a vocabulary at most: more than the largest ones in use for tagging (6449, RAM++, Huang et al. 2023). To
embed that many takes the shipped sentence encoder about a minute on one core, and every Gaussian is compared with all.
"""

MAX_LABEL_CHARS = 80

PROMPTS = ("{label}", "a {label}", "a {label} in a room")
"""Sentences whose embeddings are averaged for a label (prompt ensembling, CLIP, Radford et al. 2021, section 3.1.4)."""

STRUCTURE = frozenset({"wall", "floor", "ceiling", "window", "door"})
"""Labels of the building rather than of things in it."""

_FOLDER = Path(__file__).parent / "vocabularies"
_GOLDEN_RATIO = 0.6180339887498949


_MAX_FILE_BYTES = 4 << 20
"""Room for the most and longest labels, in any script, and some comments."""


class VocabularyError(ReadError):
    """A vocabulary that cannot be used; the message names the label, its place and what is wrong."""


class VocabularyCancelled(VocabularyError):  # noqa: N818 - asked for, not a mistake
    """A change of the vocabulary was given up on request; the old one is in use."""


def check_cancelled(cancelled: threading.Event | None, done: str) -> None:
    """Raise VocabularyCancelled, which says what was ``done``, if the event is set."""
    if cancelled is not None and cancelled.is_set():
        raise VocabularyCancelled(f"cancelled while {done}: the old vocabulary stays in use")


@dataclass(frozen=True)
class Vocabulary:
    """Labels that points can take; a label's id is its place.

    Attributes:
        labels: stripped and NFC-normalised; non-empty and unique without regard to case.

    Raises:
        VocabularyError: no labels, too many, or one that is not a string, is empty, too long, repeated or holds
            control characters.
    """

    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if isinstance(self.labels, str):
            raise VocabularyError(f"vocabulary is the string {self.labels[:40]!r}: expected a sequence of labels")
        given = tuple(self.labels)
        if not 1 <= len(given) <= MAX_LABELS:
            raise VocabularyError(f"vocabulary has {len(given)} labels: expected 1 to {MAX_LABELS}")
        labels = tuple(_check_label(label, i) for i, label in enumerate(given))
        first: dict[str, int] = {}
        for i, label in enumerate(labels):
            j = first.setdefault(label.casefold(), i)
            if j != i:
                raise VocabularyError(f"label {i} {label!r} repeats label {j} {labels[j]!r}: expected unique labels")
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def colors(self) -> np.ndarray:
        """RGB of each label, uint8 [L, 3]: distinct, and the same for a label in (almost) every vocabulary."""
        taken: set[tuple[int, int, int]] = set()
        rows = [_color(label, taken) for label in self.labels]
        return np.array(rows, dtype=np.uint8).reshape(-1, 3)


def _check_label(label: str, place: int) -> str:
    if not isinstance(label, str):
        raise VocabularyError(f"label {place} is a {type(label).__name__}: expected a string")
    if len(label) > MAX_LABEL_CHARS:
        raise VocabularyError(f"label {place} has {len(label)} characters: expected at most {MAX_LABEL_CHARS}")
    label = unicodedata.normalize("NFC", label.strip())
    if is_blank(label):
        raise VocabularyError(f"label {place} is empty: expected a name")
    control = find_control(label)
    if control is not None:
        raise VocabularyError(f"label {place} {label!r} holds the control character {control}: expected plain text")
    return label


def _color(label: str, taken: set[tuple[int, int, int]]) -> tuple[int, int, int]:
    """A bright colour from the hash of a label, turned by the golden ratio as long as it is taken."""
    digest = hashlib.blake2b(label.casefold().encode(), digest_size=8).digest()
    hue = int.from_bytes(digest[:4], "little") / 2**32
    saturation = 0.45 + 0.5 * digest[4] / 255
    value = 0.65 + 0.35 * digest[5] / 255
    while True:
        red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
        if (red, green, blue) not in taken:
            taken.add((red, green, blue))
            return red, green, blue
        hue = (hue + _GOLDEN_RATIO) % 1.0


def shipped_vocabularies() -> tuple[str, ...]:
    """Names of the vocabularies that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def load_vocabulary(name_or_path: str | Path) -> Vocabulary:
    """A vocabulary by its shipped name, or from a UTF-8 text file with a label a line.

    Empty lines and lines that start with ``#`` are skipped.

    Raises:
        VocabularyError: neither a shipped name nor a readable file, or its labels are not valid.
    """
    path = _FOLDER / f"{name_or_path}.txt" if name_or_path in shipped_vocabularies() else Path(name_or_path)
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8-sig") if size <= _MAX_FILE_BYTES else ""
    except (OSError, ValueError) as error:
        names = ", ".join(shipped_vocabularies())
        expected = f"expected one of {names} or a UTF-8 text file"
        raise VocabularyError(f"vocabulary {str(name_or_path)!r}: {expected}") from error
    if size > _MAX_FILE_BYTES:
        raise VocabularyError(f"vocabulary {str(name_or_path)!r} has {size} bytes: expected at most {_MAX_FILE_BYTES}")
    lines = text.splitlines()
    try:
        return Vocabulary(tuple(line for line in lines if line.strip() and not line.lstrip().startswith("#")))
    except VocabularyError as error:
        raise VocabularyError(f"vocabulary {str(name_or_path)!r}: {error}") from error


def encode_labels(
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    prompts: Sequence[str] = PROMPTS,
    cancelled: threading.Event | None = None,
) -> Tensor:
    """The mean embedding of each label over prompts that hold ``{label}``.

    Args:
        cancelled: gives up once it is set; looked at before each batch of texts, which takes less than a second.

    Returns:
        L2-normalised float32 [L, dim].

    Raises:
        VocabularyCancelled: ``cancelled`` was set.
    """
    if not prompts or any("{label}" not in prompt for prompt in prompts):
        raise ValueError(f"prompts = {tuple(prompts)!r}: expected sentences that hold '{{label}}'")
    # replace, not format: braces in a label are just characters.
    texts = [prompt.replace("{label}", label) for label in vocabulary.labels for prompt in prompts]
    if not isinstance(encoder, CachedTextEncoder):
        encoder = CachedTextEncoder(encoder)  # encodes in batches
    embeddings = encoder.encode(texts, lambda: check_cancelled(cancelled, "the labels were encoded"))
    embeddings = embeddings.view(len(vocabulary), len(prompts), encoder.dim)  # [L, P, dim]
    return nn.functional.normalize(embeddings.mean(1), dim=-1)
