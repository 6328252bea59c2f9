"""``.ply`` files as elements of a structured array each, whatever their comments hold."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from plyfile import PlyData

from chorus_core.io.errors import ReadError, reading

_LONGEST_HEADER = 1 << 20
_BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
_SMALL_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16)


class PlyFormatError(ReadError):
    """A ``.ply`` file that cannot be used. The message names the file, the property and the expected form."""


def read_ply(path: str | Path, elements: Collection[str]) -> PlyData:
    """Read some elements of a ``.ply`` (Turk, "The PLY Polygon File Format", 1994), memory-mapped where it can be.

    Comments may hold any bytes; those beyond ASCII come as "?". Elements after the last one asked for are not read.
    Counts are compared with the size of the file before anything is allocated.

    Raises:
        PlyFormatError: not a ``.ply``, cut short, or its counts are more than the file can hold.
        FileNotFoundError: no such file.
    """
    with reading(path, PlyFormatError), _PlainHeader(path, elements) as stream:
        # "c": copy on write, so that a file without write permission opens too
        return PlyData.read(stream, mmap="c")


class _PlainHeader(io.BufferedReader):
    """A ``.ply`` whose header reads as plain ASCII and ends with the elements asked for, byte by byte in place."""

    def __init__(self, path: str | Path, elements: Collection[str]) -> None:
        super().__init__(io.FileIO(os.fspath(path)))
        try:
            lines, newline = _header_lines(path, super().read(_LONGEST_HEADER))
            self._header = newline.join(_plain(lines, elements)).encode("ascii")
            _check_counts(path, self._header.decode("ascii").split(newline), self._body_bytes())
        except BaseException:
            self.close()
            raise
        self.seek(0)

    def read(self, size: int | None = -1) -> bytes:
        start = self.tell()
        data = super().read(size)
        if start >= len(self._header):
            return data
        plain = self._header[start : start + len(data)]
        return plain + data[len(plain) :]

    def _body_bytes(self) -> int:
        return os.fstat(self.fileno()).st_size - len(self._header)


def _header_lines(path: str | Path, head: bytes) -> tuple[list[str], str]:
    """Lines up to ``end_header`` and what ends them; bytes beyond ASCII as "?"."""
    if head[:3] != b"ply":
        raise PlyFormatError(f"{path}: not a .ply: it does not begin with 'ply'")
    newline = b"\r\n" if head[3:5] == b"\r\n" else head[3:4]
    end = head.find(newline + b"end_header" + newline)
    if newline not in (b"\r\n", b"\n", b"\r") or end < 0:
        raise PlyFormatError(f"{path}: no line 'end_header' in its first {len(head)} bytes")
    plain = bytes(byte if byte < 128 else ord("?") for byte in head[:end]).decode("ascii")
    return [*plain.split(newline.decode()), "end_header", ""], newline.decode()


def _plain(lines: list[str], elements: Collection[str]) -> list[str]:
    """The lines, as long as they are, with elements that follow the last one asked for turned into comments."""
    starts = [number for number, line in enumerate(lines) if line.startswith("element ")]
    asked = [place for place, number in enumerate(starts) if set(lines[number].split()[1:2]) & set(elements)]
    end = starts[asked[-1] + 1] if asked and asked[-1] + 1 < len(starts) else len(lines)
    plain = []
    for number, line in enumerate(lines):
        if line.startswith("obj_info "):  # plyfile wants these before the elements, others do not care
            line = "comment  " + line[len("obj_info ") :]
        elif number >= end and line.startswith("element "):
            line = "comment " + line[len("element ") :]
        elif number >= end and line.startswith("property "):
            line = "comment  " + line[len("property ") :]
        plain.append(line)
    return plain


def _check_counts(path: str | Path, lines: list[str], available: int) -> None:
    """Refuse counts that the rest of the file cannot hold. Unknown words are left to the parser."""
    is_text = any(line.split()[:2] == ["format", "ascii"] for line in lines)
    least = count = 0
    empty = ""
    for line in lines:
        words = line.split()
        if words[:1] in (["element"], ["end_header"]) and empty:
            raise PlyFormatError(f"{path}: element {empty!r} has no properties")
        if words[:1] == ["element"] and len(words) == 3:
            if not (words[2].isdigit() and len(words[2]) < 16):
                raise PlyFormatError(f"{path}: {words[2][:40]!r} of element {words[1]!r}: expected a count")
            count = int(words[2])
            empty = words[1] if count else ""
        elif words[:1] == ["property"] and len(words) > 2:
            empty = ""
            kind = words[2] if words[1] == "list" else words[1]
            # in text a digit and what separates it from the next
            least += count * (2 if is_text else _BYTES.get(kind, 0))
    if least - is_text > available:
        raise PlyFormatError(f"{path}: cut short: the header announces {least} bytes or more, {available} follow it")


def origin_of(ply: PlyData) -> np.ndarray:
    """What was taken off the coordinates when the file was written, metres, float64 [3]: ``comment origin x y z``."""
    for comment in ply.comments:
        words = comment.split()
        if words[:1] == ["origin"] and len(words) == 4:
            with suppress(ValueError):  # a sentence that happens to begin so
                origin = np.array(words[1:], np.float64)
                if np.isfinite(origin).all():
                    return origin
    return np.zeros(3)


def vertex_of(ply: PlyData, path: str | Path) -> np.ndarray:
    """The element ``vertex`` as a structured array [N].

    Raises:
        PlyFormatError: there is none.
    """
    if "vertex" not in ply:
        names = ", ".join(element.name for element in ply.elements) or "none"
        raise PlyFormatError(f"{path}: no element 'vertex' (elements: {names})")
    return ply["vertex"].data


def require(vertex: np.ndarray, names: Sequence[str], path: str | Path, what: str) -> None:
    """Check that an element has properties, each of them a number.

    Raises:
        PlyFormatError: some are missing or lists.
    """
    missing = [name for name in names if name not in vertex.dtype.names]
    if missing:
        has = textwrap.shorten(", ".join(vertex.dtype.names), 300, placeholder=" ...")
        raise PlyFormatError(f"{path}: not {what}: vertex has no property {', '.join(missing)} (it has {has})")
    lists = [name for name in names if vertex.dtype[name].kind == "O"]
    if lists:
        raise PlyFormatError(f"{path}: vertex property {', '.join(lists)} is a list: expected a number")


def columns(vertex: np.ndarray, names: Sequence[str], dtype: DTypeLike = np.float32) -> np.ndarray:
    """Properties side by side [N, len(names)]."""
    return np.stack([np.asarray(vertex[name], dtype) for name in names], axis=1)


def float_columns(vertex: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Properties side by side [N, len(names)], float32 if that holds all that the file has, else float64."""
    exact = all(vertex.dtype[name].newbyteorder("=") in (np.float32, *_SMALL_INTEGERS) for name in names)
    return columns(vertex, names, np.float32 if exact else np.float64)
