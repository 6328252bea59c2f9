"""JSON and YAML from outside: of bounded size and depth, without aliases, and always a mapping."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from chorus_core.io.errors import ReadError, reading

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 64
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where PyYAML was built with it


class DocumentError(ReadError):
    """A JSON or YAML file that cannot be used. The message names the file and the expected form."""


def read_json(path: str | Path, max_bytes: int = _MAX_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        DocumentError: not JSON, not an object, nested too deeply, or larger than ``max_bytes``.
        OSError: no such file, or not readable.
    """
    text = _text(Path(path), max_bytes)
    with reading(path, DocumentError):
        # The decoder recurses into its input; this looks at brackets alone (those in strings too: a few to spare).
        _check_depth(path, _bracket_depth(text))
        return _mapping(path, json.loads(text))


def read_yaml(path: str | Path, max_bytes: int = 1 << 20) -> dict[str, Any]:
    """The mapping that a YAML file holds; empty for an empty file.

    Aliases are refused: a few of them can stand for a tree of any size.

    Raises:
        DocumentError: not YAML, not a mapping, with aliases, nested too deeply, or larger than ``max_bytes``.
        OSError: no such file, or not readable.
    """
    text = _text(Path(path), max_bytes)
    with reading(path, DocumentError):
        return _mapping(path, parse_yaml(text, path) or {})


def parse_yaml(text: str, what: str | Path = "YAML") -> Any:
    """What a piece of YAML holds, of any type.

    Raises:
        DocumentError: not YAML, with aliases, or nested too deeply.
    """
    with reading(what, DocumentError):
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise DocumentError(f"{what}: line {event.start_mark.line + 1} has an alias: expected plain values")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                _check_depth(what, depth)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        return yaml.load(text, Loader=_LOADER)  # a safe loader either way


def _text(path: Path, max_bytes: int) -> str:
    size = path.stat().st_size
    if size > max_bytes:
        raise DocumentError(f"{path} has {size} bytes: expected at most {max_bytes}")
    with reading(path, DocumentError):
        return path.read_bytes().decode("utf-8-sig")  # some editors begin with a byte order mark


def _bracket_depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.finditer(r"[\[{\]}]", text):
        depth += 1 if bracket.group() in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _check_depth(what: str | Path, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise DocumentError(f"{what}: nested more than {_MAX_DEPTH} levels deep")


def _mapping(path: str | Path, tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise DocumentError(f"{path}: expected a mapping, got {type(tree).__name__}")
    return tree
