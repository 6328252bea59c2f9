"""Encoder weights by name from the Hugging Face hub: ``OWNER/REPOSITORY:NAME``."""

from __future__ import annotations

import re
from pathlib import Path

from chorus_core.io.errors import ReadError
from chorus_core.io.hub_errors import why_not_loaded

SUFFIXES = (".safetensors", ".pth", ".pt")
_PART = r"(?!\.\.?(/|$))[\w.-]+"  # a name, and no way out of the folder that it is looked for in
_NAME = re.compile(rf"(?P<repository>[\w.-]+/[\w.-]+):(?P<weights>{_PART}(/{_PART})*)")


class HubError(ReadError):
    """Weights that the hub does not give; the message says why and what to do."""


def is_hub_name(name: str) -> bool:
    """Whether a text has the form ``OWNER/REPOSITORY:NAME``."""
    return _NAME.fullmatch(name) is not None


def fetch_weights(name: str) -> Path:
    """The weight file of that name, from the local cache of the hub's client or fetched into it.

    ``NAME`` is a file of the repository with or without its suffix, or a folder that holds one weight file. Nothing
    but such files is fetched. Access that the owner grants on request is that of the account logged in.

    Raises:
        HubError: no access, no connection, no such repository or weights, or several.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise HubError(f"{name!r}: expected OWNER/REPOSITORY:NAME")
    repository, weights = match["repository"], match["weights"]
    patterns = [weights, *(f"{weights}{end}{suffix}" for end in ("", "/*") for suffix in SUFFIXES)]
    try:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # the client raises many kinds; each means that the weights cannot be had
        reason = why_not_loaded(error, "encoder.checkpoint: FILE", repository)
        raise HubError(f"encoder {name!r}: {reason}") from error
    found = _weight_files(folder, weights)
    if len(found) == 1:
        return found[0]
    if not found:
        raise HubError(f"encoder {name!r}: {repository} has no such file, nor folder with one ({', '.join(SUFFIXES)})")
    names = ", ".join(f"{repository}:{path.relative_to(folder)}" for path in found)
    raise HubError(f"encoder {name!r}: there are several, choose one: {names}")


def _weight_files(folder: Path, weights: str) -> list[Path]:
    exact = folder / weights
    if exact.is_file() and exact.suffix in SUFFIXES:
        return [exact]
    files = [folder / f"{weights}{suffix}" for suffix in SUFFIXES]
    inside = sorted(exact.glob("*")) if exact.is_dir() else []
    return [path for path in (*files, *inside) if path.is_file() and path.suffix in SUFFIXES]
