"""Files appear whole or not at all: write beside the target, rename at the end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of ``path`` when the block ends without an error.

    The temporary name is in the same folder (a rename never crosses file systems), hidden, unique, and keeps the
    suffix (some writers choose their format by it). Parent folders are made. After an error the temporary file is
    removed and what stood at ``path`` before is untouched. Readers see the old or the new file, never half of one;
    a power cut is not covered, as nothing is fsynced.

    Raises:
        FileNotFoundError: the block ended without having written the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
