"""JSON and YAML from outside: of bounded size and depth, each key once, no aliases, and of a known kind at the top."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from chorus_core.io.errors import ReadError, reading

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 64
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where PyYAML was built with it


class DocumentError(ReadError):
    """A JSON or YAML file that cannot be used. The message names the file and the expected form."""


def read_json(
    path: str | Path,
    max_bytes: int = _MAX_BYTES,
    *,
    kind: type[dict] | type[list] = dict,
    error: type[ReadError] = DocumentError,
) -> Any:
    """The object (``kind`` dict), or the array (list), that a JSON file holds.

    Raises:
        ReadError: of the kind ``error``: not JSON, of another kind, a key twice, nested too deeply, or larger than
            ``max_bytes``.
        OSError: no such file, or not readable.
    """
    text = _text(Path(path), max_bytes, error)
    with reading(path, error):
        # The decoder recurses into its input; this looks at brackets alone (those in strings too: a few to spare).
        _check_depth(path, _bracket_depth(text), error)

        def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            for key, count in Counter(key for key, _ in pairs).items():
                if count > 1:
                    raise error(f"{path}: {key!r} is there {count} times: which one is meant?")
            return dict(pairs)

        return _of_kind(path, json.loads(text, object_pairs_hook=once), kind, error)


def read_yaml(path: str | Path, max_bytes: int = 1 << 20, *, error: type[ReadError] = DocumentError) -> dict[str, Any]:
    """The mapping that a YAML file holds; empty for an empty file.

    Aliases are refused: a few of them can stand for a tree of any size.

    Raises:
        ReadError: of the kind ``error``: not YAML, not a mapping, with aliases, a key twice, nested too deeply, or
            larger than ``max_bytes``.
        OSError: no such file, or not readable.
    """
    text = _text(Path(path), max_bytes, error)
    tree = parse_yaml(text, path, error=error)
    return _of_kind(path, {} if tree is None else tree, dict, error)


def parse_yaml(text: str, what: str | Path = "YAML", *, error: type[ReadError] = DocumentError) -> Any:
    """What a piece of YAML holds, of any type.

    Raises:
        ReadError: of the kind ``error``: not YAML, with aliases, a key twice, or nested too deeply.
    """
    with reading(what, error):
        open_: list[_Level] = []
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise error(f"{what}: line {event.start_mark.line + 1} has an alias: expected plain values")
            if isinstance(event, yaml.NodeEvent) and open_ and open_[-1].repeats(event):
                raise error(
                    f"{what}: line {event.start_mark.line + 1}: {event.value!r} is there twice: which one is meant?"
                )
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append(_Level(isinstance(event, yaml.MappingStartEvent)))
                _check_depth(what, len(open_), error)
            elif isinstance(event, yaml.CollectionEndEvent):
                open_.pop()
        return yaml.load(text, Loader=_LOADER)  # a safe loader either way


class _Level:
    """A mapping or list whose end has not come yet."""

    def __init__(self, is_mapping: bool) -> None:
        self._is_mapping = is_mapping
        self._keys: set[str] = set()
        self._at_key = True

    def repeats(self, node: yaml.NodeEvent) -> bool:
        """Whether the next node in it is a key that came before."""
        is_key, self._at_key = self._is_mapping and self._at_key, not self._at_key
        if not is_key or not isinstance(node, yaml.ScalarEvent):
            return False
        repeated = node.value in self._keys
        self._keys.add(node.value)
        return repeated


def _text(path: Path, max_bytes: int, error: type[ReadError]) -> str:
    size = path.stat().st_size
    if size > max_bytes:
        raise error(f"{path} has {size} bytes: expected at most {max_bytes}")
    with reading(path, error):
        return path.read_bytes().decode("utf-8-sig")  # some editors begin with a byte order mark


def _bracket_depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.finditer(r"[\[{\]}]", text):
        depth += 1 if bracket.group() in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _check_depth(what: str | Path, depth: int, error: type[ReadError]) -> None:
    if depth > _MAX_DEPTH:
        raise error(f"{what}: nested more than {_MAX_DEPTH} levels deep")


def _of_kind(path: str | Path, tree: Any, kind: type, error: type[ReadError]) -> Any:
    if not isinstance(tree, kind):
        expected = "a mapping" if kind is dict else "a list"
        raise error(f"{path}: expected {expected}, got {type(tree).__name__}")
    return tree
