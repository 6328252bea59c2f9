"""Damage of the kinds that files meet, drawn from a seed: cut, flipped, inserted, swapped, wrong numbers, nesting."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np

NUMBERS = (b"0", b"-1", b"1e400", b"-inf", b"nan", b"65536", b"2147483648", b"-9223372036854775809", b"1" + b"0" * 30,
           b"9" * 5000, b"1e-320", b"0.5.5", b"", b"1_0", b"0x10", b"true", b"null", b'"1"')  # fmt: skip
WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
FLOATS = (float("nan"), float("inf"), -float("inf"), -1.0, 0.0, 1e38, -1e38, 1e-45)
NESTS = (b"[", b"{", b'{"a":', b"- ", b"(", b"&a [*a]", b"a: &a [x]\nb: *a\n")


def mutate(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One change, or at times a few, and their names; the same generator state gives the same."""
    names = []
    for _ in range(1 if rng.random() < 0.8 else int(rng.integers(2, 5))):
        kind = _KINDS[int(rng.integers(len(_KINDS)))]
        content = kind(content, rng)
        names.append(kind.__name__.strip("_"))
    return "+".join(names), content


def _place(content: bytes, rng: np.random.Generator) -> int:
    """Anywhere, but the first and last bytes, which say what the others are, more often."""
    size = len(content)
    where = rng.random()
    if where < 0.35:
        return int(rng.integers(min(size, 256) + 1))
    return size - int(rng.integers(min(size, 256) + 1)) if where < 0.55 else int(rng.integers(size + 1))


def _span(content: bytes, rng: np.random.Generator, longest: int = 200) -> tuple[int, int]:
    at = _place(content, rng)
    return at, min(at + int(rng.integers(1, longest)), len(content))


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def _behead(content: bytes, rng: np.random.Generator) -> bytes:
    return content[min(_place(content, rng), 64) :]


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        at = _place(content, rng)
        if at < len(changed):
            changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _insert(content: bytes, rng: np.random.Generator) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.bytes(int(rng.integers(1, 64))) + content[at:]


def _delete(content: bytes, rng: np.random.Generator) -> bytes:
    a, b = _span(content, rng)
    return content[:a] + content[b:]


def _repeat(content: bytes, rng: np.random.Generator) -> bytes:
    a, b = _span(content, rng)
    return content[:b] + content[a:b] * int(rng.integers(1, 20)) + content[b:]


def _swap(content: bytes, rng: np.random.Generator) -> bytes:
    a, b = _span(content, rng)
    c = _place(content, rng)
    changed = bytearray(content)
    part, other = content[a:b], content[c : c + b - a]
    changed[a : a + len(other)] = other
    changed[c : c + len(part)] = part
    return bytes(changed)


def _zero(content: bytes, rng: np.random.Generator) -> bytes:
    a, b = _span(content, rng, 4096)
    return content[:a] + bytes([int(rng.choice((0, 255)))]) * (b - a) + content[b:]


def _number(content: bytes, rng: np.random.Generator) -> bytes:
    """A number in the text, one of its first 8192 bytes more often than not."""
    area = content[:8192] if rng.random() < 0.7 else content
    found = [m.span() for m in re.finditer(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", area)]
    if not found:
        return _word(content, rng)
    a, b = found[int(rng.integers(len(found)))]
    return content[:a] + NUMBERS[int(rng.integers(len(NUMBERS)))] + content[b:]


def _word(content: bytes, rng: np.random.Generator) -> bytes:
    """A number in the bytes: 1 to 8 of them, either order."""
    size = int(rng.choice((1, 2, 4, 8)))
    value = WORDS[int(rng.integers(len(WORDS)))] % 2 ** (8 * size)
    at = min(_place(content, rng), max(len(content) - size, 0))
    return content[:at] + value.to_bytes(size, str(rng.choice(("little", "big")))) + content[at + size :]


def _float(content: bytes, rng: np.random.Generator) -> bytes:
    value, form = FLOATS[int(rng.integers(len(FLOATS)))], str(rng.choice(("<f", ">f", "<d")))
    at = _place(content, rng) // 4 * 4
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


def _nest(content: bytes, rng: np.random.Generator) -> bytes:
    at = _place(content, rng)
    times = int(rng.choice((3, 70, 2000, 100_000)))
    return content[:at] + NESTS[int(rng.integers(len(NESTS)))] * times + content[at:]


def _line(content: bytes, rng: np.random.Generator) -> bytes:
    """A line lost, doubled, or moved."""
    lines = content.split(b"\n")
    at = int(rng.integers(len(lines)))
    line = lines.pop(at)
    what = rng.random()
    if what < 0.6:
        lines.insert(int(rng.integers(len(lines) + 1)) if what < 0.3 else at, line)
    if 0.3 <= what < 0.6:
        lines.insert(at, line)
    return b"\n".join(lines)


def _other(content: bytes, rng: np.random.Generator) -> bytes:
    """Nothing of it left."""
    return (b"", b"\0", b"\xef\xbb\xbf", b"\n" * 1000, rng.bytes(300), b"{}", b"[]", b"null")[int(rng.integers(8))]


_KINDS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _cut, _behead, _flip, _flip, _flip, _insert, _delete, _repeat, _swap, _zero, _number, _number, _word, _word, _float,
    _nest, _line, _other,
)  # fmt: skip
