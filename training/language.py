"""Language targets for training: what people call and say of each category, embedded once into a bank.

``python -m training.language --out bank.npz`` writes the bank, so that training needs no text encoder. Held-back words
for "is it there?" questions live here too, split once and for all into calibration and test.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chorus_core.io.arrays import read_npz
from chorus_core.io.errors import reading
from chorus_core.semantics.relevancy import NEGATIVES, REFERENCE
from chorus_core.semantics.text_encoder import TextEncoder, load_text_encoder
from chorus_core.semantics.vocabulary import load_vocabulary
from training.command_line import run_command
from training.descriptions import Description, LanguageError, load_descriptions, with_more

KINDS = ("name", "synonym", "description", "context", "colour")
"""What a phrase of the bank is."""

KIND_WEIGHTS = {"name": 0.35, "synonym": 0.2, "description": 0.3, "context": 0.15}
"""Share of each kind among the targets of a category, colour phrases apart."""

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 25),
    "white": (240, 240, 240),
    "grey": (128, 128, 128),
    "red": (190, 35, 35),
    "orange": (235, 130, 30),
    "yellow": (240, 210, 50),
    "green": (60, 140, 60),
    "blue": (45, 85, 180),
    "purple": (125, 60, 150),
    "pink": (235, 150, 180),
    "brown": (110, 70, 40),
    "beige": (215, 195, 160),
}
"""Colour words and a typical sRGB of each."""

# Everyday words for things that are neither among the training categories nor in the demo's house.
_ABSENT = (
    *("accordion", "airplane", "anchor", "aquarium", "axe", "bicycle", "birdcage", "camel", "cannon", "canoe"),
    *("cash register", "cat", "chainsaw", "cow", "crocodile", "dinosaur", "dog", "drum kit", "elephant"),
    *("fire hydrant", "fishing rod", "giraffe", "gravestone", "harp", "helicopter", "horse", "kite", "lawn mower"),
    *("lighthouse", "mailbox", "microscope", "motorcycle", "parachute", "parking meter", "penguin", "rocket"),
    *("sailboat", "saxophone", "shopping cart", "skis", "snake", "snowman", "spider", "stroller", "suitcase"),
    *("surfboard", "swimming pool", "sword", "telescope", "tennis racket", "tent", "tractor", "traffic light"),
    *("tree trunk", "trumpet", "umbrella", "vending machine", "wheelbarrow", "wheelchair", "windmill"),
)
_ABSENT_TEST = 20


@dataclass(frozen=True)
class Phrase:
    """A phrase of the bank: its text, its kind, and the place of its colour in COLORS (-1: none)."""

    text: str
    kind: str
    color: int = -1


def with_article(noun: str) -> str:
    """``a chair``, ``an apple``, ``a usb stick``."""
    vowel = noun[:1].lower() in "aeiou" and not noun.lower().startswith(("us", "ut", "uni", "eu"))
    return f"{'an' if vowel else 'a'} {noun}"


def phrase_bank(description: Description) -> list[Phrase]:
    """All phrases for a category: names, synonyms, descriptions, names in context, and names in every colour."""

    def noun(text: str) -> str:
        return with_article(text) if description.article else text

    name = description.name
    bank = [Phrase(name, "name")]
    if description.article:
        bank.append(Phrase(noun(name), "name"))
    bank += [Phrase(synonym, "synonym") for synonym in description.synonyms]
    bank += [Phrase(text, "description") for text in description.descriptions]
    bank += [Phrase(f"{noun(name)} in a room", "context"), Phrase(f"a photo of {noun(name)}", "context")]
    for i, color in enumerate(COLORS):
        bank.append(Phrase(noun(f"{color} {name}"), "colour", i))
        if description.article:  # "the scissors is red" is no English
            bank.append(Phrase(f"the {name} is {color}", "colour", i))
        bank += [Phrase(f"{color} {synonym}", "colour", i) for synonym in description.synonyms[:1]]
    return bank


def phrases(
    category: str,
    color: str | None = None,
    *,
    rng: np.random.Generator,
    descriptions: Mapping[str, Description] | None = None,
) -> list[str]:
    """What one may say of a thing of that category and colour, in random order.

    Raises:
        LanguageError: unknown category or colour.
    """
    descriptions = descriptions or load_descriptions()
    if category not in descriptions:
        raise LanguageError(f"category {category!r}: expected one of the {len(descriptions)} described categories")
    if color is not None and color not in COLORS:
        raise LanguageError(f"color {color!r}: expected one of {', '.join(COLORS)}")
    wanted = -1 if color is None else list(COLORS).index(color)
    bank = phrase_bank(descriptions[category])
    texts = [phrase.text for phrase in bank if phrase.color in (-1, wanted)]
    return [texts[i] for i in rng.permutation(len(texts))]


def nearest_color(rgb: Tensor) -> Tensor:
    """The colour word nearest to each sRGB colour in [0, 1] [N, 3], by distance in CIELAB: int64 [N]."""
    import cv2

    def lab(colors: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(colors.astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]

    words = lab(np.array(list(COLORS.values())) / 255)  # [K, 3]
    given = lab(rgb.detach().cpu().numpy().reshape(-1, 3)) if rgb.numel() else np.zeros((0, 3))
    nearest = np.linalg.norm(given[:, None] - words[None], axis=-1).argmin(1)
    return torch.from_numpy(nearest).to(rgb.device)


def absent_words(split: str, seed: int = 0) -> tuple[str, ...]:
    """Words for things that no scene holds: 40 for calibration (``validation``), 20 for the final ``test`` only."""
    if split not in ("validation", "test"):
        raise LanguageError(f"split {split!r}: expected 'validation' or 'test'")
    order = np.random.default_rng(seed).permutation(len(_ABSENT))
    chosen = order[:_ABSENT_TEST] if split == "test" else order[_ABSENT_TEST:]
    return tuple(_ABSENT[i] for i in sorted(chosen))


_ARRAYS = (
    "encoder", "categories", "names", "strings", "embeddings", "category", "kind", "color", "weights", "negatives",
    "reference", "absent_validation", "absent_test",
)  # fmt: skip
"""Of a bank's file."""


class LanguageTargets:
    """The embedded bank, and samples from it.

    Attributes:
        categories: keys of the descriptions; a category's index is its place.
        names: natural name of each category.
        strings: the P phrases.
        embeddings: unit vectors, float32 [P, dim].
        category, kind, color: of each phrase, int64 [P]: places in ``categories``, KINDS and COLORS (-1: no colour).
        weights: chance of each phrase among those of its category (and colour), float32 [P].
        negatives, reference: unit vectors of NEGATIVES and of the labels of REFERENCE, float32 [M, dim].
        absent_validation, absent_test: unit vectors of :func:`absent_words`, float32 [40, dim] and [20, dim].
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> None:
        self._arrays = dict(arrays)
        self.encoder_name = str(arrays["encoder"])
        self.categories = tuple(str(key) for key in arrays["categories"])
        self.names = tuple(str(name) for name in arrays["names"])
        self.strings = tuple(str(text) for text in arrays["strings"])

        def tensor(key: str, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.asarray(arrays[key]), dtype=dtype, device=device)

        def unit(key: str) -> Tensor:
            return torch.nn.functional.normalize(tensor(key, torch.float32), dim=-1)  # undoes fp16 rounding of lengths

        self.embeddings = unit("embeddings")
        self.category, self.kind, self.color = (tensor(key, torch.int64) for key in ("category", "kind", "color"))
        self.weights = tensor("weights", torch.float32)
        self.negatives, self.reference = unit("negatives"), unit("reference")
        self.absent_validation, self.absent_test = unit("absent_validation"), unit("absent_test")
        self._row = {category: i for i, category in enumerate(self.categories)}
        self._plain = self._table(self.category, self.color < 0, len(self.categories))
        self._coloured = self._table(
            self.category * len(COLORS) + self.color, self.color >= 0, len(self.categories) * len(COLORS)
        )

    @classmethod
    def build(
        cls,
        encoder: TextEncoder,
        descriptions: Mapping[str, Description] | None = None,
        device: torch.device | str = "cpu",
    ) -> LanguageTargets:
        """Encodes the bank of all categories."""
        descriptions = descriptions or load_descriptions()
        bank = [(i, phrase) for i, entry in enumerate(descriptions.values()) for phrase in phrase_bank(entry)]
        texts = [phrase.text for _, phrase in bank]

        def encode(sentences: Sequence[str]) -> np.ndarray:
            return encoder.encode(sentences).numpy().astype(np.float16)

        arrays = {
            "encoder": np.array(encoder.name),
            "categories": np.array(list(descriptions)),
            "names": np.array([entry.name for entry in descriptions.values()]),
            "strings": np.array(texts),
            "embeddings": encode(texts),
            "category": np.array([i for i, _ in bank], dtype=np.int32),
            "kind": np.array([KINDS.index(phrase.kind) for _, phrase in bank], dtype=np.int8),
            "color": np.array([phrase.color for _, phrase in bank], dtype=np.int8),
            "weights": _weights(bank),
            "negatives": encode(NEGATIVES),
            "reference": encode(load_vocabulary(REFERENCE).labels),
            "absent_validation": encode(absent_words("validation")),
            "absent_test": encode(absent_words("test")),
        }
        return cls(arrays, device)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> LanguageTargets:
        """A bank written by :meth:`save`.

        Raises:
            LanguageError: the file is not such a bank.
        """
        try:
            arrays = read_npz(path, _ARRAYS, error=LanguageError)
            with reading(path, LanguageError):
                return cls(arrays, device)
        except OSError as error:
            raise LanguageError(f"{path}: expected a language bank written by training.language ({error})") from error

    def save(self, path: str | Path) -> None:
        """Writes the bank as ``.npz`` (embeddings in fp16)."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(file, **self._arrays)
        os.replace(temporary, path)

    def index(self, category: str) -> int:
        """Place of a category; LanguageError if there is none of that key."""
        if category not in self._row:
            raise LanguageError(f"category {category!r}: not in the language bank")
        return self._row[category]

    def name_embeddings(self) -> Tensor:
        """The embedding of each category's bare name, float32 [C, dim]."""
        places = {text: i for i, text in reversed(list(enumerate(self.strings)))}
        return self.embeddings[[places[name] for name in self.names]]

    def sample(
        self,
        category: Tensor,
        color: Tensor | None = None,
        *,
        rng: torch.Generator | np.random.Generator | None = None,
        color_share: float = 0.2,
    ) -> Tensor:
        """A random target for each thing.

        Args:
            category: places in ``categories``, int64 [B], on the bank's device.
            color: places in COLORS, -1 where unknown, int64 [B]; None is unknown for all.
            rng: of the bank's device if it is torch's.
            color_share: chance that a thing of known colour is given a phrase that names the colour.

        Returns:
            Unit vectors, float32 [B, dim].
        """
        return self.embeddings[self.sample_phrases(category, color, rng=rng, color_share=color_share)]

    def sample_phrases(
        self,
        category: Tensor,
        color: Tensor | None = None,
        *,
        rng: torch.Generator | np.random.Generator | None = None,
        color_share: float = 0.2,
    ) -> Tensor:
        """As :meth:`sample`, but places in ``strings``, int64 [B]."""
        if isinstance(rng, np.random.Generator):
            rng = torch.Generator(self.category.device).manual_seed(int(rng.integers(2**63)))
        chosen = _draw(*self._plain, category, rng)
        if color is None:
            return chosen
        named = torch.rand(len(category), generator=rng, device=category.device) < color_share
        row = category * len(COLORS) + color.clamp(min=0)
        return torch.where(named & (color >= 0), _draw(*self._coloured, row, rng), chosen)

    def _table(self, row: Tensor, selected: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
        """Phrases of each row, padded: places int64 [R, K] and cumulative chances float32 [R, K]."""
        places = torch.nonzero(selected)[:, 0]
        places = places[torch.argsort(row[places], stable=True)]
        counts = torch.bincount(row[places], minlength=n_rows)
        column = torch.arange(len(places), device=row.device) - (counts.cumsum(0) - counts)[row[places]]
        table = torch.zeros(n_rows, max(1, int(counts.max())), dtype=torch.int64, device=row.device)
        chances = torch.zeros(table.shape, device=row.device)
        table[row[places], column] = places
        chances[row[places], column] = self.weights[places]
        cumulative = chances.cumsum(1)
        return table, cumulative / cumulative[:, -1:].clamp(min=1e-12)


def _draw(table: Tensor, cumulative: Tensor, rows: Tensor, rng: torch.Generator | None) -> Tensor:
    """One entry of each row by its chances: int64 [B]."""
    if not len(rows):
        return rows
    chance = torch.rand(len(rows), 1, generator=rng, device=rows.device)
    # Chances end at 1 and chance < 1, but rounding may leave the last a hair below.
    column = torch.searchsorted(cumulative[rows], chance * (1 - 1e-6), right=True)
    return table[rows, column.clamp(max=table.shape[1] - 1)[:, 0]]


def _weights(bank: Sequence[tuple[int, Phrase]]) -> np.ndarray:
    """Chance of each phrase among its category's: by kind, evenly within a kind; colour phrases apart, evenly."""
    counts: dict[tuple[int, str, int], int] = {}
    for i, phrase in bank:
        counts[i, phrase.kind, phrase.color] = counts.get((i, phrase.kind, phrase.color), 0) + 1
    share = [KIND_WEIGHTS.get(phrase.kind, 1.0) / counts[i, phrase.kind, phrase.color] for i, phrase in bank]
    total: dict[tuple[int, int], float] = {}
    for (i, phrase), value in zip(bank, share, strict=True):
        total[i, phrase.color] = total.get((i, phrase.color), 0.0) + value
    weights = [value / total[i, phrase.color] for (i, phrase), value in zip(bank, share, strict=True)]
    return np.array(weights, dtype=np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.language", description="Write the bank of targets.")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--encoder", default="minilm", help="text encoder, as chorus_core.semantics names them")
    parser.add_argument("--more-descriptions", type=Path, help="further categories, as more_descriptions.yaml")
    options = parser.parse_args(arguments)
    descriptions = load_descriptions()
    if options.more_descriptions:
        descriptions = with_more(descriptions, load_descriptions(options.more_descriptions))
    targets = LanguageTargets.build(load_text_encoder(options.encoder), descriptions)
    targets.save(options.out)
    print(f"{options.out}: {len(targets.strings)} phrases of {len(targets.categories)} categories")


if __name__ == "__main__":
    run_command(main)
