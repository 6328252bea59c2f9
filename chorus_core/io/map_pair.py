"""Two files that are replaced as one: a ``.ply`` and the features of what is in it.

A save writes the features first, under a name that no save used before: ``NAME.ID.features.npz``. Then the ``.ply``
takes the place of the old one; a comment in its header, ``chorus_map ID SHA256``, names the features and the digest of
their file. That rename is the moment at which the new map counts, and only after it are older features removed, except
those of a ``.ply`` of another name in that folder: the old one may have been copied or renamed. The features hold the
digest of the ``.ply`` without the comment, so that damage to any byte of either file is found.

A reader therefore has the old map or the new one, whatever a save was interrupted by. Maps of before this order lie in
``NAME.ply`` and ``NAME.features.npz`` and are read still.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from chorus_core.io.atomic import atomic_path, temporary_names
from chorus_core.io.errors import ReadError

_HEAD = 1 << 16
"""Bytes in which the header's comment is looked for."""

_FIRST = 1 << 12
"""Bytes that hold a whole header as a rule."""

_MARK = re.compile(rb"^comment chorus_map ([0-9a-f]{8}) ([0-9a-f]{64})\n", re.MULTILINE)
_LIKE_A_MARK = re.compile(rb"chorus_map|[0-9a-f]{8} [0-9a-f]{64}")
_SUFFIX = ".features.npz"
_ATTEMPTS = 20

Parsed = TypeVar("Parsed")


class MapFileError(ReadError):
    """A saved map that cannot be used: parts are missing, damaged or disagree. The message names the file."""


@dataclass(frozen=True)
class Pair:
    """Both files of a map.

    Attributes:
        path: of the ``.ply``.
        features: content of the file of features.
        features_path: where that is.
        rest_sha256: digest of the ``.ply`` without the comment; None for maps that have none.
    """

    path: Path
    features: bytes
    features_path: Path
    rest_sha256: str | None


def write_pair(path: Path, ply: bytes, features_for: Callable[[str], bytes]) -> None:
    """Replace the map at ``path``.

    Args:
        path: absolute.
        ply: a binary ``.ply`` without the comment.
        features_for: given the digest of ``ply``, makes the content of the file of features.

    Raises:
        OSError: the disk is full, or the like; the old map is still there.
    """
    with _saving(path):
        features = features_for(_sha256(ply))
        save_id = secrets.token_hex(4)
        sidecar = _sidecar(path, save_id)
        _write(sidecar, features)
        try:
            place = ply.index(b"\n", ply.index(b"\nformat ") + 1) + 1  # after the second line, as the standard has it
            mark = f"comment chorus_map {save_id} {_sha256(features)}\n".encode()
            _write(path, ply[:place], mark, memoryview(ply)[place:])
        except BaseException:
            if _marked_id(path) != save_id:
                sidecar.unlink(missing_ok=True)
            raise
        _remove_others(path, sidecar)


def write_bare(path: Path, ply: bytes) -> None:
    """Replace the map at ``path`` by one without features.

    Raises:
        OSError: the disk is full, or the like; the old map is still there.
    """
    with _saving(path):
        _write(path, ply)
        _remove_others(path, None)


def read_pair(path: Path, parse: Callable[[Pair], Parsed]) -> Parsed:
    """What ``parse`` makes of both files; done anew where a save has replaced the map meanwhile.

    Raises:
        MapFileError: a part is missing, damaged or of another map, or what ``parse`` raises.
        OSError: there is no such ``.ply``, or it is not readable.
    """
    for _ in range(_ATTEMPTS):
        before = _identity(path)
        try:
            parsed = parse(_read(path))
        except MapFileError:
            if _identity(path) == before:
                raise
        else:
            if _identity(path) == before:
                return parsed
    raise MapFileError(f"{path}: was replaced again and again while it was read")


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> Pair:
    ply = path.read_bytes()
    if (mark := _MARK.search(ply, 0, _HEAD)) is None:
        return _read_unmarked(path, ply)
    save_id, digest = (group.decode() for group in mark.groups())
    sidecar = _find(path, save_id)
    try:
        features = sidecar.read_bytes()
    except FileNotFoundError:
        raise MapFileError(f"{sidecar}: missing; {_encode_again(path)}") from None
    if _sha256(features) != digest:
        raise MapFileError(f"{sidecar}: damaged, or {path} is: {path.name} says its sha256 is {digest:.12}...")
    return Pair(path, features, sidecar, _sha256(ply[: mark.start()], memoryview(ply)[mark.end() :]))


def features_path(path: str | Path) -> Path | None:
    """Where the features of the map at ``path`` are, or should be; None for a ``.ply`` without any.

    Raises:
        OSError: there is no such ``.ply``, or it is not readable.
    """
    path = Path(path)
    if (save_id := _marked_id(path)) is not None:
        return _find(path, save_id)
    legacy = path.with_suffix(_SUFFIX)
    return legacy if legacy.is_file() else None


def move_map(source: str | Path, target: str | Path) -> Path:
    """Give a map another name, or another folder of the same file system; what was there is replaced.

    Returns:
        The new ``.ply``, an absolute path.

    Raises:
        OSError: there is no such map, or it cannot be moved there.
    """
    source, target = Path(source).resolve(), Path(target).resolve()
    if source == target:
        return target
    save_id, features = _marked_id(source), features_path(source)
    with _saving(target):
        moved = None
        if features is not None:  # a copy, so that either name has its features at any moment
            moved = target.with_suffix(_SUFFIX) if save_id is None else _sidecar(target, save_id)
            if features != moved:
                _write(moved, features.read_bytes())
        os.replace(source, target)
        _remove_others(target, moved)
    copied = save_id is not None and source.parent != target.parent and save_id in _named_ids(source.parent.iterdir())
    if features is not None and features != moved and not copied:
        features.unlink(missing_ok=True)
    return target


def _read_unmarked(path: Path, ply: bytes) -> Pair:
    if _LIKE_A_MARK.search(ply, 0, max(0, ply.find(b"end_header", 0, _HEAD))):
        raise MapFileError(f"{path}: damaged: the header's comment chorus_map is no ID and SHA256")
    legacy = path.with_suffix(_SUFFIX)
    try:
        return Pair(path, legacy.read_bytes(), legacy, None)
    except FileNotFoundError:
        raise MapFileError(f"{path} has no features: {_encode_again(path)}") from None


def _encode_again(path: Path) -> str:
    return f"`python -m chorus_core encode {path} --out NEW.ply` makes an encoded map"


def _marked_id(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(_FIRST)
            if b"end_header" not in head:
                head += file.read(_HEAD - len(head))
            mark = _MARK.search(head)
    except FileNotFoundError:
        return None
    return None if mark is None else mark.group(1).decode()


def _named_ids(plys: Iterable[Path]) -> set[str]:
    """The ids that any of these ``.ply`` carries: also copies of a map, and maps that were renamed alone."""
    found = set()
    for ply in plys:
        if ply.suffix.lower() == ".ply" and ply.is_file():  # a pipe of that name would be waited for
            with suppress(OSError):
                found.add(_marked_id(ply))
    return found - {None}


def _sidecar(path: Path, save_id: str) -> Path:
    return path.with_name(f"{path.stem}.{save_id}{_SUFFIX}")


def _find(path: Path, save_id: str) -> Path:
    """The features of that id, also where the ``.ply`` alone was renamed: the digest tells whether they are its own."""
    named = _sidecar(path, save_id)
    if named.is_file():
        return named
    return next(iter(sorted(path.parent.glob(f"*.{save_id}{_SUFFIX}"))), named)


@contextmanager
def _saving(path: Path) -> Iterator[None]:
    """One save in a folder at a time, of all processes: a save removes what is not of the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, *parts: bytes | memoryview) -> None:
    with atomic_path(path, durable=True) as temporary, temporary.open("wb") as file:
        for part in parts:
            file.write(part)


def _remove_others(path: Path, kept: Path | None) -> None:
    """Remove features of older saves of that name that no ``.ply`` of another name needs, and what killed saves left.

    What cannot be removed does no harm.
    """
    stem = re.escape(path.stem)
    features = re.compile(rf"{stem}(?:\.([0-9a-f]{{8}}))?\.features\.npz")
    left = (
        temporary_names(stem, re.escape(path.suffix)),
        temporary_names(rf"{stem}\.[0-9a-f]{{8}}\.features", r"\.npz"),
    )
    everything = list(path.parent.iterdir())
    doomed = [item for item in everything if any(names.fullmatch(item.name) for names in left)]
    others = [item for item in everything if item not in doomed]
    older = {other: match[1] for other in others if other != kept and (match := features.fullmatch(other.name))}
    named = _named_ids(others) if any(older.values()) else set()
    for other, save_id in older.items():
        # "map.20261127.features.npz" may be of a map "map.20261127.ply".
        another = path.with_name(f"{other.name.removesuffix(_SUFFIX)}.ply")
        if save_id not in named and (another == path or not another.exists()):
            doomed.append(other)
    for other in doomed:
        with suppress(OSError):
            other.unlink()


def _sha256(*parts: bytes | memoryview) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
