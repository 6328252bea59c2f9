"""What people call and say of each category, as written in ``training/data``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from chorus_core.io.documents import read_yaml
from chorus_core.io.errors import ReadError

DESCRIPTIONS = Path(__file__).parent / "data" / "descriptions.yaml"
MORE_DESCRIPTIONS = DESCRIPTIONS.with_name("more_descriptions.yaml")
"""Of the categories that only a second collection of models holds."""


class LanguageError(ReadError):
    """Descriptions or a bank that cannot be used; the message names the category, the field and what is wrong."""


@dataclass(frozen=True)
class Description:
    """What people call and say of a category.

    Attributes:
        name: natural name, without article.
        synonyms: other names.
        descriptions: what it is, is for, or where it is found.
        article: whether "a" or "an" goes before the name (not for plurals and mass nouns).
    """

    name: str
    synonyms: tuple[str, ...]
    descriptions: tuple[str, ...]
    article: bool = True


def load_descriptions(path: str | Path = DESCRIPTIONS) -> dict[str, Description]:
    """Descriptions by category, in the file's order.

    Raises:
        LanguageError: the file is not a mapping, or an entry has an unknown field, no name or no description.
    """
    tree = read_yaml(path, error=LanguageError)
    if not tree:
        raise LanguageError(f"{Path(path).name}: expected a mapping from category to its description")
    return {str(category): _description(str(category), entry) for category, entry in tree.items()}


def with_more(descriptions: Mapping[str, Description], more: Mapping[str, Description]) -> dict[str, Description]:
    """Both; a synonym that is by now another category's name is one no more.

    Raises:
        LanguageError: a category or a name that both have.
    """
    both = {**descriptions, **more}
    names = {entry.name for entry in both.values()}
    if not len(names) == len(both) == len(descriptions) + len(more):
        raise LanguageError("further descriptions: a category or a name that is described already")
    return {
        category: replace(entry, synonyms=tuple(s for s in entry.synonyms if s not in names))
        for category, entry in both.items()
    }


def _description(category: str, entry: object) -> Description:
    known = {field.name for field in fields(Description)}
    if not isinstance(entry, Mapping) or not set(entry) <= known:
        raise LanguageError(f"{category}: expected a mapping of {sorted(known)}, got {entry!r:.80}")
    name, article = entry.get("name"), entry.get("article", True)
    lists = {key: entry.get(key, []) for key in ("synonyms", "descriptions")}
    for key, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) and value.strip() for value in values):
            raise LanguageError(f"{category}.{key} = {values!r:.80}: expected a list of non-empty strings")
    if not isinstance(name, str) or not name.strip() or not isinstance(article, bool) or not lists["descriptions"]:
        raise LanguageError(f"{category}: expected a name, at least one description, and article as true or false")
    return Description(name, tuple(lists["synonyms"]), tuple(lists["descriptions"]), article)
