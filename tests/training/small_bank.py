"""A language bank of eight categories, for tests that need no text encoder."""

from __future__ import annotations

import numpy as np

from training.language import KINDS, LanguageTargets

DIM = 48
NAMES = ("chair", "table", "lamp", "sofa", "bed", "rug", "tv", "vase")


def units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def small_bank() -> LanguageTargets:
    """Eight categories, each a random direction; its phrases scatter about it."""
    rng = np.random.default_rng(0)
    centers = units(rng, len(NAMES), DIM)
    kinds = ["name", "synonym", "description", "description"]
    rows = [(c, k) for c in range(len(NAMES)) for k in kinds]
    embeddings = np.array([centers[c] + (0.0 if k == "name" else 0.08) * rng.normal(size=DIM) for c, k in rows])
    return LanguageTargets(
        {
            "encoder": np.array("none"),
            "categories": np.array(NAMES),
            "names": np.array(NAMES),
            "strings": np.array([NAMES[c] if k == "name" else f"{NAMES[c]} {k} {i}" for i, (c, k) in enumerate(rows)]),
            "embeddings": embeddings.astype(np.float32),
            "category": np.array([c for c, _ in rows]),
            "kind": np.array([KINDS.index(k) for _, k in rows]),
            "color": np.full(len(rows), -1),
            "weights": np.full(len(rows), 0.25, np.float32),
            "negatives": units(rng, 5, DIM),
            "reference": units(rng, 30, DIM),
            "absent_validation": units(rng, 40, DIM),
            "absent_test": np.full((20, DIM), np.nan),  # whoever looks at these is found out
        }
    )
