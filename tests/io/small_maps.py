"""Saved maps in which every value tells which one it is of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from chorus_core.gaussians import Gaussians
from chorus_core.io.gaussian_ply import save_gaussians
from chorus_core.io.map_file import ModelReference, load_map, save_map
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.objects import make_object
from chorus_core.semantics.vocabulary import Vocabulary

MODEL = ModelReference("chorus_mini", "a" * 64, unit=True)


def small_map(seed: int, count: int = 3) -> LabelledMap:
    """A map in which every value tells the seed."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    gaussians = Gaussians(
        torch.rand(count, 3, generator=generator) + seed,
        unit(torch.randn(count, 4, generator=generator), dim=1),
        torch.full((count, 3), 0.02),
        torch.full((count,), 0.5),
        torch.rand(count, 3, generator=generator),
    )
    features = unit(torch.randn(count, 4, generator=generator), dim=1).half()
    labels = torch.randint(0, 2, (count,), generator=generator)
    words = Vocabulary((f"chair {seed}", f"lamp {seed}"))
    found = LabelledMap(gaussians, features, labels, torch.rand(count, generator=generator), words, seed)
    found.objects = [
        make_object(words.labels[int(labels[i])], np.ones(1), gaussians.means[i : i + 1].numpy(), np.array([i]), id=i)
        for i in range(1, count)
    ]
    return found


def save(path: Path, labelled: LabelledMap, model: ModelReference = MODEL) -> Path:
    return save_map(path, labelled, model)


def seed_of(path: Path) -> int:
    """Which small map lies at ``path``; fails if it is none, or is put together from two."""
    found, model = load_map(path)
    expected = small_map(found.stamp, len(found))
    torch.testing.assert_close(found.gaussians.means, expected.gaussians.means, atol=0, rtol=0)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.confidence, expected.confidence)
    assert found.vocabulary == expected.vocabulary
    assert model.name == MODEL.name
    return found.stamp


def legacy(path: Path, labelled: LabelledMap) -> Path:
    """A map as it was written before the two files named each other."""
    extra = {
        "label": labelled.labels.numpy().astype(np.int32),
        "instance": np.arange(len(labelled), dtype=np.int32) - 1,
        "confidence": labelled.confidence.numpy(),
    }
    save_gaussians(path, labelled.gaussians, extra)
    sidecar = path.with_suffix(".features.npz")
    np.savez(
        sidecar, features=labelled.features.numpy(), vocabulary=np.array(labelled.vocabulary.labels),
        model=np.array(MODEL.name), model_sha256=np.array(MODEL.sha256), stamp=np.array(labelled.stamp / 1e9),
    )  # fmt: skip
    return sidecar
