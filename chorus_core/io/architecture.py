"""Values of a description of a network from outside: of their kind and in bounds, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping

_HEADS, _HEAD_WIDTH = 32, 1 << 14
"""At most: outputs of a network, and their width."""


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """A value is a whole number in [low, high]; true and false are none.

    Raises:
        ValueError: it is not; the message has name, value and bounds.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} = {value!r:.80}: expected a whole number from {low} to {high}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """A value is a number in [low, high]; true and false are none.

    Raises:
        ValueError: it is not; the message has name, value and bounds.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} = {value!r:.80}: expected a number from {low:g} to {high:g}")


def check_list(name: str, values: object, longest: int, most: int | None = None) -> None:
    """A value is a list of up to ``longest`` values; whole numbers from 1 to ``most``, where that is given.

    Raises:
        ValueError: it is not; the message has name and value.
    """
    if not isinstance(values, list | tuple) or len(values) > longest:
        raise ValueError(f"{name} = {values!r:.80}: expected a list of up to {longest} values")
    if most is not None:
        for i, value in enumerate(values):
            check_whole(f"{name}[{i}]", value, 1, most)


def check_heads(heads: object) -> None:
    """Widths of a network's outputs by name.

    Raises:
        ValueError: there are too many, a name is none for a module, or a width is out of range.
    """
    if not isinstance(heads, Mapping) or len(heads) > _HEADS:
        raise ValueError(f"heads = {heads!r:.80}: expected widths of up to {_HEADS} heads by name")
    for name, width in heads.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"heads has {name!r:.80}: expected names without dots")
        check_whole(f"heads[{name!r:.80}]", width, 1, _HEAD_WIDTH)
