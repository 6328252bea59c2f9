"""Trained weights from outside, ``.safetensors`` or ``.pth``: dense tensors of finite values and nothing else."""

from __future__ import annotations

import io
import mmap
import pickletools
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from chorus_core.io.errors import ReadError, reading

_ZIP = b"PK\x03\x04"
_INTEGERS = {"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"}
_PICKLE, _PICKLES_BEFORE_1_6 = "data.pkl", 5
"""Where the objects of a zip archive are; a file of torch before 1.6 begins with a magic number, the version, facts of
the machine, the objects, and the names of the storages, whose bytes follow."""

_LONGEST_NAME = 200
_SHARED = 2
"""Bytes of all tensors over bytes of the file: tensors may share values, but not without end."""


class WeightsError(ReadError):
    """Weights that cannot be used. The message names the file, and the tensor where it is a tensor's fault."""


def read_weights(path: str | Path, error: type[ReadError] = WeightsError) -> dict[str, Tensor]:
    """Tensors by name, on the CPU: a ``.safetensors`` file, else what ``torch.save`` writes of a state dict.

    The second may have the state dict under "state_dict", beside other things. No code of the file is run.

    Raises:
        ReadError: of the kind ``error``: missing, damaged, or with anything but dense tensors of finite numbers.
    """
    path = Path(path)
    with reading(path, error):
        size = _size(path, error)
        if path.suffix == ".safetensors":
            state = load_file(path)  # it holds what its header announces to the file's size
        else:
            content = _unpickle(path, size)
            state = content.get("state_dict", content) if isinstance(content, dict) else None
            if not isinstance(state, dict) or not all(
                isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
            ):
                raise error(f"{path}: expected a dict of tensors, or one under 'state_dict'")
        check_tensors(state, path, error, _SHARED * size)
        return {name: value.detach() for name, value in state.items()}


def read_state(path: str | Path, error: type[ReadError] = WeightsError) -> dict[str, Any]:
    """A dict of tensors and plain values, nested in any way, as ``torch.save`` writes one; tensors are on the CPU.

    Raises:
        ReadError: as of :func:`read_weights`.
    """
    path = Path(path)
    with reading(path, error):
        size = _size(path, error)
        content = _unpickle(path, size)
        if not isinstance(content, dict):
            raise error(f"{path}: expected a dict, got {type(content).__name__}")
        check_tensors(dict(_tensors_of(content)), path, error, _SHARED * size)
        return content


def check_tensors(
    state: Mapping[str, Tensor], what: str | Path, error: type[ReadError] = WeightsError, most: int | None = None
) -> None:
    """Tensors are dense, of floating or whole numbers, and finite in single precision.

    Args:
        what: begins the message.
        most: bytes of all of them together.

    Raises:
        ReadError: of the kind ``error``: one is not; the message has its name.
    """
    for name, value in state.items():
        if not _is_plain(value):
            raise error(f"{what}: {name!r:.200} is no dense tensor of floating or whole numbers")
    total = sum(value.numel() * value.element_size() for value in state.values())
    if most is not None and total > most:
        raise error(f"{what}: tensors of {total} bytes in all: expected at most {most}")
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value.detach().float()).all():
            raise error(f"{what}: {name!r:.200} has values that are not finite")


def check_fit(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    what: str | Path,
    error: type[ReadError] = WeightsError,
) -> None:
    """Tensors have the names and shapes that a network's have, which may be on the "meta" device.

    Counters of batch normalisation may be missing: older files lack them, and they mean nothing in evaluation.

    Raises:
        ReadError: of the kind ``error``: some do not; the message lists them.
    """
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(state))
        if state[name].shape != expected[name].shape
    ]
    missing = sorted(n for n in set(expected) - set(state) if not n.endswith("num_batches_tracked"))
    extra = sorted(set(state) - set(expected))
    listed = (("missing keys", missing), ("unexpected keys", extra), ("wrong shapes", shapes))
    if problems := [f"{title}: {_shorten(names)}" for title, names in listed if names]:
        raise error(f"{what} does not fit the model; " + "; ".join(problems))


def _shorten(names: Sequence[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _size(path: Path, error: type[ReadError]) -> int:
    if not path.is_file():
        raise error(f"{path}: missing, or no file")
    return path.stat().st_size


def _unpickle(path: Path, size: int) -> Any:
    """What ``torch.save`` wrote; before anything is allocated, the sizes that it announces are held to the file's."""
    with path.open("rb") as file:
        zipped = file.read(len(_ZIP)) == _ZIP
    if zipped:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_announced(sum(entry.file_size for entry in entries), size)
            for entry in entries:
                if entry.filename.endswith(_PICKLE):
                    _check_pickles(io.BytesIO(archive.read(entry)), 1, size)
    else:
        # Mapped: to read as many bytes as a pickle announces would take memory for them first.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_pickles(content, _PICKLES_BEFORE_1_6, size)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check_pickles(file: io.BytesIO | mmap.mmap, count: int, size: int) -> None:
    """Look through pickles that follow each other, for what torch must not be given.

    That is a storage of more values than the file has bytes: a tuple that ends with their number, and then the
    instruction that makes a storage of it. And an absurdly long name: torch's message over it takes minutes to make.
    """
    number = 0
    for _ in range(count):
        for instruction, value, _ in pickletools.genops(file):
            if instruction.name in _INTEGERS:
                number = value
            elif instruction.name == "BINPERSID":
                _check_announced(number, size)
            elif instruction.name == "GLOBAL" and len(value) > _LONGEST_NAME:
                raise ValueError(f"asks for a function or class with a name of {len(value)} characters")


def _check_announced(announced: int, size: int) -> None:
    if announced > size:
        raise ValueError(f"announces {announced} bytes, the file has {size}")


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is on the CPU and holds each of its values itself."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and not (value.is_nested or value.is_quantized or value.is_complex() or value.dtype == torch.bool)
    )


def _tensors_of(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping | Sequence) and not isinstance(tree, str | bytes):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in items:
            yield from _tensors_of(value, f"{name}.{key}" if name else str(key))
