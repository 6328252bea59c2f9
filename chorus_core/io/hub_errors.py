"""Why weights could not be had from a hub, whatever library tried, and what the user can do about it."""

from __future__ import annotations

import os
from pathlib import Path

from chorus_core.extras import how_to_install

_GATED = {"GatedRepoError"}
_UNREACHABLE = {
    *("LocalEntryNotFoundError", "OfflineModeIsEnabled", "URLError", "gaierror"),
    *("ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "Timeout"),
}
_LONGEST = 300
"""Characters of a library's own message."""

_UNKNOWN = {"RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError", "EntryNotFoundError"}


def why_not_loaded(error: Exception, by_path: str, repository: str | None = None) -> str:
    """What is in the way and what to do about it, in a sentence.

    Args:
        error: whatever the library raised.
        by_path: how the same is loaded from a local path, e.g. "timm:<folder>".
        repository: on the Hugging Face hub, where known.
    """
    chain = _chain(error)
    kinds = {parent.__name__ for link in chain for parent in type(link).__mro__}
    elsewhere = f"or load it from a local path as {by_path}"
    source = f"repository {repository!r}" if repository else "repository"
    missing = next((link for link in chain if isinstance(link, ModuleNotFoundError)), None)
    if missing is not None:
        package = (missing.name or "").split(".")[0]
        return f"needs the Python package {package!r}, which is not installed: {how_to_install(package)}"
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
    return text.splitlines()[0][:_LONGEST] if text else type(error).__name__


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
