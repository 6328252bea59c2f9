"""Which files make up a rosbag2 recording.

``metadata.yaml`` tells, where it is there. Nothing else is taken from it: its topics, QoS profiles, storage and
compression repeat what the files say, differ from distribution to distribution, and are edited by hand.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePath

from chorus_core.io.documents import DocumentError, read_yaml
from chorus_core.io.sequence import SequenceError

_log = logging.getLogger(__name__)

METADATA = "metadata.yaml"
_SUFFIXES = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd")


def is_bag(path: Path) -> bool:
    """Whether a path looks like a rosbag2 recording: one of its files, or a folder that holds some."""
    if path.is_file():
        return path.name.endswith(_SUFFIXES)
    return (path / METADATA).is_file() or (path.is_dir() and bool(_storage_files(path)))


def bag_files(path: Path) -> list[Path]:
    """The storage files of a recording, in order.

    Raises:
        SequenceError: there are none, or they are not of one recording.
    """
    if path.is_file():
        return [path]
    listed = _listed_files(path / METADATA) if (path / METADATA).is_file() else []
    there = [file for file in listed if file.is_file()]
    if listed and there != listed:
        missing = ", ".join(file.name for file in listed if file not in there)
        _log.warning("%s: %s names files that are not there: %s", path, METADATA, missing)
    present = _storage_files(path)
    if more := [file.name for file in present if there and _stem(file) in map(_stem, there) and file not in there]:
        _log.warning(
            "%s: %s does not name %s: not read (without %s they are)", path, METADATA, ", ".join(more), METADATA
        )
    files = there or present
    if not files:
        raise SequenceError(f"{path}: not a readable rosbag2 recording: no .mcap or .db3 file")
    stems = {_stem(file) for file in files}
    if not there and len(stems) > 1:
        raise SequenceError(f"{path}: no {METADATA}, and files of several recordings ({', '.join(sorted(stems))})")
    return files


def _stem(file: Path) -> str:
    """The name of the recording that a file is a part of, as its own name has it."""
    return re.sub(r"(_\d+)?\.(mcap|db3)(\.zstd)?$", "", file.name)


def _listed_files(metadata: Path) -> list[Path]:
    try:
        bag = read_yaml(metadata).get("rosbag2_bagfile_information")
    except (DocumentError, OSError) as error:
        _log.warning("%s; the files in its folder are read", error)
        return []
    names = bag.get("relative_file_paths") if isinstance(bag, dict) else None
    if not isinstance(names, list):
        return []
    # names alone: before Galactic they were paths from where the recorder ran
    files = [metadata.parent / PurePath(str(name)).name for name in names]
    # recordings compressed as files were listed by the names before it
    return [file if file.is_file() else _packed(file) for file in files]


def _packed(file: Path) -> Path:
    packed = file.with_name(f"{file.name}.zstd")
    return packed if packed.is_file() else file


def _storage_files(folder: Path) -> list[Path]:
    """Storage files in a folder, NAME_2 before NAME_10; hidden ones are not of a recorder (macOS leaves ``._NAME``)."""
    files = [f for f in folder.iterdir() if f.name.endswith(_SUFFIXES) and f.is_file() and f.name[0] != "."]
    return sorted(files, key=lambda f: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", f.name)])
