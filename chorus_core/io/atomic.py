"""Files appear whole or not at all: write beside the target, rename at the end."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of ``path`` when the block ends without an error.

    The temporary name is in the same folder (a rename never crosses file systems), hidden, unique, and keeps the
    suffix (some writers choose their format by it). Parent folders are made. After an error the temporary file is
    removed and what stood at ``path`` before is untouched. Readers see the old or the new file, never half of one.
    Where ``path`` is a link, the file that it names is replaced and the link stays.

    Args:
        durable: also over a power cut: content and rename are on the disk when the block has ended.

    Raises:
        FileNotFoundError: the block ended without having written the file.
        OSError: what stands at ``path`` is no regular file (before the block begins), the disk is full, or the like;
            it names ``path``, whatever the writer's own error says.
    """
    path = Path(path)
    target = _target(path)
    temporary = target.with_name(f".{path.stem}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, target)
        if durable:
            _flush(target.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if (named := _naming(error, temporary, path)) is not None:
            raise named from error
        raise


def check_target(path: str | Path) -> None:
    """Say before the work what :func:`atomic_path` would fail with after it. Writes nothing.

    Raises:
        OSError: ``path`` is a folder, a device or a pipe, lies below a file, or in a folder that cannot be written to.
    """
    folder = next(parent for parent in _target(Path(path)).absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{os.strerror(errno.EACCES)} in {folder}", str(path))


def temporary_names(stem: str, suffix: str) -> re.Pattern[str]:
    """The names that :func:`atomic_path` writes to, which a killed process leaves; all are regular expressions."""
    return re.compile(rf"\.{stem}\.[0-9a-f]{{12}}\.tmp{suffix}")


def _target(path: Path) -> Path:
    """The file to replace: what a link names. A rename would put a file in the place of a device or a pipe as well."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "is no regular file (a device, a pipe), and is not replaced", str(path))
    return target


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _naming(error: BaseException, temporary: Path, path: Path) -> OSError | None:
    """The error of a writer as an OSError that names the file; None where it is of another kind, or names another.

    numpy says "1000 requested and 0 written" without a number; writers in Rust (safetensors) raise errors of their own
    that end in "(os error 28)".
    """
    if isinstance(error, OSError):
        if error.filename not in (None, str(temporary), temporary):
            return None
        number, reason = error.errno or errno.EIO, error.strerror or str(error)
    elif isinstance(error, Exception) and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found.group(1))
        reason = os.strerror(number)
    else:
        return None
    return OSError(number, reason, str(path))
