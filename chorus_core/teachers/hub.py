"""Weights by name from a hub or from a local path; what cannot be had is said once and clearly."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chorus_core.teachers.base import TeacherError

_WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
_GATED = {"GatedRepoError"}
_UNREACHABLE = {
    *("LocalEntryNotFoundError", "OfflineModeIsEnabled", "URLError", "gaierror"),
    *("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "Timeout"),
}
_UNKNOWN = {"RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError", "EntryNotFoundError"}


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
        raise TeacherError(f"{what}: {_reason(error, by_path, repository)}") from error


def _reason(error: Exception, by_path: str, repository: str | None) -> str:
    chain = _chain(error)
    kinds = {parent.__name__ for link in chain for parent in type(link).__mro__}
    elsewhere = f"or load it from a local path as {by_path}"
    source = f"repository {repository!r}" if repository else "repository"
    missing = next((link for link in chain if isinstance(link, ModuleNotFoundError)), None)
    if missing is not None:
        package = (missing.name or "").split(".")[0]
        return f"needs the Python package {package!r}, which is not installed: pip install {package}"
    if kinds & _GATED:
        return (
            f"its hub {source} is gated: ask for access on its page, wait until it is granted, log in with "
            f"`hf auth login`, {elsewhere} ({_first_line(error)})"
        )
    if kinds & _UNREACHABLE:
        return (
            f"its weights are in no local cache (looked in {', '.join(_caches())}) and the hub cannot be reached: "
            f"connect, fetch it where there is a connection"
            + (f" (`hf download {repository}`)" if repository else "")
            + f" and copy the cache, {elsewhere} ({_first_line(error)})"
        )
    if kinds & _UNKNOWN:
        return f"the hub has no such {source} or file: check the name, log in if it is private, {elsewhere}"
    return _first_line(error)


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _caches() -> list[str]:
    """Where the libraries keep what they fetched."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    torch_home = Path(os.environ.get("TORCH_HOME", home / "torch"))
    try:
        from huggingface_hub.constants import HF_HUB_CACHE

        folders = [str(HF_HUB_CACHE)]
    except ImportError:
        folders = []
    return [*folders, str(torch_home / "hub" / "checkpoints")]
