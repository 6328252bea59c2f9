"""ImageNet's classes as points of a text space: names, what people call such things, and what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from chorus_core.io.documents import read_yaml
from chorus_core.semantics.text_encoder import TextEncoder
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from chorus_core.teachers.efficientnet_lite import CLASSES

COMMON_NAMES = Path(__file__).resolve().parent.parent / "data" / "imagenet_common_names.yaml"
"""Of each common name the classes that it holds for, by their first names or ranges of numbers."""

DEFINITION_WEIGHT, COMMON_WEIGHT = 0.5, 1.0


def class_names() -> list[tuple[tuple[str, ...], str]]:
    """Names and definition of each class, from WordNet as timm carries it."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    found = []
    for k in range(CLASSES):
        names, _, definition = info.index_to_description(k, detailed=True).partition(":")
        found.append((tuple(name.strip() for name in names.split(",")), definition.strip()))
    return found


def common_names(table: Mapping[str, Sequence[object]], first_names: Sequence[str]) -> list[list[str]]:
    """The common names of each class.

    Args:
        table: of each common name the classes: a first name, a number, or ``first-last`` numbers.
        first_names: of each class.

    Raises:
        ValueError: an entry that is no class.
    """
    places: dict[str, list[int]] = {}
    for k, name in enumerate(first_names):
        places.setdefault(name.casefold(), []).append(k)
    found: list[list[str]] = [[] for _ in first_names]
    for common, entries in table.items():
        for entry in map(str, entries):
            if match := re.fullmatch(r"(\d+)(?:-(\d+))?", entry):
                numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
            else:
                numbers = places.get(entry.casefold(), ())
            if not numbers or numbers[-1] >= len(first_names):
                raise ValueError(f"common name {common!r}: {entry!r} is no class")
            for k in numbers:
                found[k].append(common)
    return found


def class_texts(encoder: TextEncoder) -> Tensor:
    """Each class as a direction of the text space, float32 [1000, D].

    The mean of the embeddings of its names, of its common names and of its definition, less the mean of all classes:
    what all texts share says nothing of a place, and a sum over many classes would be little else.
    """
    described = class_names()
    common = common_names(read_yaml(COMMON_NAMES), [names[0] for names, _ in described])
    words = sorted({w.casefold() for names, _ in described for w in names} | {w for row in common for w in row})
    embedded = dict(zip(words, encode_labels(Vocabulary(tuple(words)), encoder), strict=True))
    definitions = functional.normalize(encoder.encode([definition for _, definition in described]), dim=1)
    rows = []
    for (names, _), said, definition in zip(described, common, definitions, strict=True):
        row = _mean([embedded[name.casefold()] for name in names]) + DEFINITION_WEIGHT * definition
        rows.append(row + COMMON_WEIGHT * _mean([embedded[word] for word in said]) if said else row)
    texts = functional.normalize(torch.stack(rows), dim=1)
    return texts - texts.mean(dim=0)


def _mean(rows: Sequence[Tensor]) -> Tensor:
    return functional.normalize(torch.stack(list(rows)).mean(dim=0), dim=0)
