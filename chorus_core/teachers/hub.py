"""Weights by name from a hub or from a local path; what cannot be had is said once and clearly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chorus_core.io.hub_errors import why_not_loaded
from chorus_core.teachers.base import TeacherError

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def local_path(name: str) -> Path | None:
    """The path that a name is, None where it names something on a hub.

    Raises:
        TeacherError: it can only be a path (absolute, relative with a dot, or a weight file) and nothing is there.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.startswith(("/", "./", "../", "~")) or path.suffix in _WEIGHT_SUFFIXES:
        raise TeacherError(f"{name}: no such file or folder (looked for {path.absolute()})")
    return None


def fingerprint(path: Path) -> str:
    """Twelve hex digits of the contents of a weight file, or of the weight and configuration files of a folder."""
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in (*_WEIGHT_SUFFIXES, ".json"))
    else:
        files = [path]
    digest = hashlib.blake2b(digest_size=6)
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def folder_name(path: Path) -> str:
    """A name for weights at a path: the path's last part and its fingerprint, the same wherever the path lies."""
    return f"{path.resolve().name}#{fingerprint(path)}"


@contextmanager
def loading(what: str, by_path: str, repository: str | None = None) -> Iterator[None]:
    """Turns whatever a library raises while it loads weights into one TeacherError.

    Args:
        what: is loaded, e.g. "timm model 'vit_small_patch16_224'".
        by_path: how the same is loaded from a local path, e.g. "timm:<folder>".
        repository: on the Hugging Face hub, where known.
    """
    try:
        yield
    except TeacherError:
        raise
    except Exception as error:  # every library raises its own kinds; each means that the teacher cannot be had
        raise TeacherError(f"{what}: {why_not_loaded(error, by_path, repository)}") from error
