"""Variants of a model: other proportions and another finish, so that a shape is not learned by its one texture.

Collections hold one or two models a category. A white sofa is still a sofa, and beds come longer and lower.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from training.scenes import primitives
from training.scenes.assets import AssetLibrary, TexturedMesh
from training.scenes.layout import Model

STRETCH = 0.15  # each axis is scaled by up to this share
_FINISHES: tuple[tuple[str, float], ...] = (("own", 0.5), ("painted", 0.15), ("washed", 0.2), ("covered", 0.15))
_COVERS = ("wood", "fabric", "carpet", "metal", "plastic")


def variant(model: Model, library: AssetLibrary, rng: np.random.Generator) -> Model:
    """The same thing with other proportions and, if it is furniture, half of the time with other surfaces."""
    stretch = rng.uniform(1 - STRETCH, 1 + STRETCH, 3)
    names, shares = zip(*_FINISHES, strict=True)
    finish = str(rng.choice(names, p=shares))
    # Furniture comes in any colour; an orange, a book or a rug is what its texture says.
    if library.objects[model.object_id].place != "floor" or model.category == "rug":
        finish = "own"
    size = tuple(float(s * k) for s, k in zip(model.size, stretch, strict=True))
    triangles = (model.mesh.triangles * stretch).astype(np.float32)
    mesh = dataclasses.replace(model.mesh, triangles=triangles)
    return dataclasses.replace(model, size=size, mesh=_finished(mesh, finish, library, rng))


def _finished(mesh: TexturedMesh, finish: str, library: AssetLibrary, rng: np.random.Generator) -> TexturedMesh:
    if finish == "painted":  # one coat over everything
        coat = primitives.plain_texture(_paint(rng), rng)
        return _retextured(mesh, lambda texture: coat)
    if finish == "washed":  # details shine through
        color, strength = 255.0 * _paint(rng), float(rng.uniform(0.4, 0.9))
        return _retextured(mesh, lambda texture: texture * (1 - strength) + color * strength)
    if finish == "covered":  # every part in a material of its own
        choices = [t for t in library.textures if t.use in _COVERS]
        return _retextured(mesh, lambda texture: library.texture_image(choices[int(rng.integers(len(choices)))].path))
    return mesh


def _paint(rng: np.random.Generator) -> np.ndarray:
    """An sRGB colour in [0, 1] of furniture: mostly white to dark grey, at times any colour."""
    tint = rng.uniform(0.0, 0.12) if rng.random() < 0.7 else rng.uniform(0.2, 0.8)
    value = rng.uniform(0.75, 1.0) if rng.random() < 0.6 else rng.uniform(0.1, 0.75)
    return value * (1.0 - tint * rng.random(3))


def _retextured(mesh: TexturedMesh, change: Callable[[np.ndarray], np.ndarray]) -> TexturedMesh:
    """Every opaque texture changed; cut-out ones (leaves, lace) make the shape and stay."""
    textures = tuple(
        np.clip(change(t), 0, 255).astype(np.uint8) if t.shape[2] == 3 else t for t in mesh.textures
    )  # fmt: skip
    return dataclasses.replace(mesh, textures=textures)
