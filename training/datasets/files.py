"""Lists, tables and JSON that data sets describe themselves with, parsed or refused by name."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chorus_core.io import documents
from training.datasets.base import DatasetError

logger = logging.getLogger(__name__)

SUBSETS = ("train", "val", "test")

_MAX_BYTES = 1 << 30
"""Of a JSON file at most: segments of a large scan's vertices are a number each."""


def read_json(path: Path, kind: type[dict] | type[list]) -> Any:
    """A JSON file whose top is an object (dict) or an array (list).

    Raises:
        DatasetError: it cannot be read, is no JSON, or is another thing at its top.
    """
    try:
        return documents.read_json(path, _MAX_BYTES, kind=kind, error=DatasetError)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error


def read_numbers(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A text matrix, float64 of a given shape; ``inf`` and ``nan`` are numbers.

    Raises:
        DatasetError: it cannot be read, or is no such matrix.
    """
    try:
        values = np.array([[float(word) for word in line.split()] for line in read_lines(path)])
    except ValueError as error:
        raise DatasetError(f"{path}: {error}; expected {shape[0]} rows of {shape[1]} numbers") from error
    if values.shape != shape:
        raise DatasetError(f"{path}: numbers of shape {values.shape}, expected {shape}")
    return values


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_table(path: Path, columns: Iterable[str], delimiter: str) -> list[dict[str, str]]:
    """Rows of a table with a header.

    Raises:
        DatasetError: it cannot be read, or one of ``columns`` is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            rows = list(reader)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise DatasetError(f"{path}: no column {missing[0]!r}; it has {reader.fieldnames}")
    return rows


def class_names(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Names of classes in their order, of a file with one a line or as they are given.

    Raises:
        DatasetError: there are none, or one comes twice.
    """
    from_file = isinstance(classes, str | Path)
    names = tuple(read_lines(Path(classes))) if from_file else tuple(classes)
    source = str(classes) if from_file else "classes"
    if not names:
        raise DatasetError(f"{source}: no names, expected one a line")
    if twice := [name for k, name in enumerate(names) if name in names[:k]]:
        raise DatasetError(f"{source}: {twice[0]!r} comes twice")
    return names


def first_existing(candidates: Sequence[Path], what: str) -> Path:
    """The first of some paths that exists.

    Raises:
        DatasetError: none does.
    """
    for path in candidates:
        if path.exists():
            return path
    raise DatasetError(f"no {what}: looked for {', '.join(map(str, candidates))}")


def listed_scenes(
    lists: Mapping[str, Sequence[Path]], find: Callable[[str], Path | None]
) -> list[tuple[str, str, Path]]:
    """Scenes of a data set's own split lists that are on disk.

    Args:
        lists: files with a scene's name a line, by subset; those that do not exist are passed over.
        find: folder of a scene, None where it was not downloaded.

    Returns:
        (name, subset, folder), by name.

    Raises:
        DatasetError: there is no list at all, a scene is in two subsets, or none is on disk.
    """
    paths = [path for candidates in lists.values() for path in candidates]
    if not any(path.is_file() for path in paths):
        raise DatasetError(f"no split list: looked for {', '.join(map(str, paths))}")
    subset_of: dict[str, str] = {}
    for subset, candidates in lists.items():
        for path in filter(Path.is_file, candidates):
            for name in read_lines(path):
                if subset_of.setdefault(name, subset) != subset:
                    raise DatasetError(f"{path}: scene {name!r} is in {subset_of[name]!r} and in {subset!r}")
    found = [(name, subset, folder) for name, subset in sorted(subset_of.items()) if (folder := find(name)) is not None]
    if not found:
        raise DatasetError(f"none of the {len(subset_of)} scenes listed in {', '.join(map(str, paths))} is on disk")
    if absent := len(subset_of) - len(found):
        logger.info("%d listed scenes are not on disk, %d are", absent, len(found))
    return found


def require_folder(path: str | Path) -> Path:
    """The path, if it is a folder.

    Raises:
        DatasetError: it is not.
    """
    path = Path(path)
    if not path.is_dir():
        raise DatasetError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    return path


def require_step(every: int) -> int:
    """A step between images, if it is one.

    Raises:
        DatasetError: it is not a whole number from 1 up.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise DatasetError(f"every = {every!r}: expected a whole number >= 1")
    return every
