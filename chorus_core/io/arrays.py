"""NumPy arrays from outside: no pickles, and no memory taken before the file is known to hold as much."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from chorus_core.io.errors import ReadError, reading

_MMAP_FROM_BYTES = 16 << 20
_HEADER_BYTES = 1 << 14


def read_npy(path: str | Path, error: type[ReadError] = ReadError) -> np.ndarray:
    """An array of numbers or text; from 16 MiB up it is memory-mapped, copy on write.

    Raises:
        error: not an array, of Python objects, or cut short.
        FileNotFoundError: no such file.
    """
    size = Path(path).stat().st_size
    with reading(path, error):
        with open(path, "rb") as file:
            _check_size(file.read(_HEADER_BYTES), size)
        return np.load(path, mmap_mode="c" if size >= _MMAP_FROM_BYTES else None, allow_pickle=False)


def read_npz(
    path: str | Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    error: type[ReadError] = ReadError,
    content: bytes | None = None,
) -> dict[str, np.ndarray]:
    """Some arrays of an archive by name; others are not read.

    Args:
        content: of the file, where it was read already.

    Raises:
        error: not an archive, an array missing, of Python objects, or cut short.
        FileNotFoundError: no such file.
    """
    with reading(path, error), zipfile.ZipFile(path if content is None else io.BytesIO(content)) as archive:
        sizes = {Path(i.filename).stem: i for i in archive.infolist() if i.filename.endswith(".npy")}
        if missing := [name for name in required if name not in sizes]:
            has = ", ".join(sizes) or "none"
            raise error(f"{path}: no array {' and '.join(missing)} (it has {has}): expected {' and '.join(required)}")
        arrays = {}
        for name in (*required, *(name for name in optional if name in sizes)):
            with archive.open(sizes[name]) as file:
                head = file.read(_HEADER_BYTES)
                _check_size(head, sizes[name].file_size)
            with archive.open(sizes[name]) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


def _check_size(head: bytes, size: int) -> None:
    """Compare what an array's header announces with the bytes there are."""
    stream: BinaryIO = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("an array of Python objects: expected numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size - stream.tell():
        raise ValueError(f"cut short: {dtype} {shape} announced, {size - stream.tell()} bytes follow")
