"""What a thing in a generated scene is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    """One thing in a scene. ``color`` is a plain name; ``structure`` marks walls, floor and ceiling."""

    category: str
    object_id: str
    color: str = ""
    size: tuple[float, float, float] = (0.0, 0.0, 0.0)
    structure: bool = False
