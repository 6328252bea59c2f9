"""Zero-shot semantic segmentation: every Gaussian takes the class whose text its feature is most similar to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chorus_core.encoder import ChorusEncoder
from chorus_core.semantics.relevancy import classify
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from training.evaluation.prepared_scenes import EvaluationScene, encode_scene, lifted_scene
from training.evaluation.segmentation import SegmentationScore
from training.prepared import PreparedScene

PROMPT = "this is a {label}"
"""The paper's prompt."""

FeatureSource = Callable[[PreparedScene], Tensor]
"""Features in the text space of each Gaussian of a scene [N, d], zero where there are none."""


def class_texts(text: TextSide, names: Sequence[str], prompts: Sequence[str] = (PROMPT,)) -> Tensor:
    """Unit embeddings of class names, float32 [L, D], in the full space of the model's head (not its compact basis)."""
    return encode_labels(Vocabulary(tuple(names)), text.encoder, prompts)


def encoded_features(encoder: ChorusEncoder, head: str = "lang", smoothing: int = 0) -> FeatureSource:
    """Features of a 3D encoder.

    Args:
        smoothing: rounds of averaging over neighbouring voxels, as the pipeline does; none in the paper's protocol.
    """

    return lambda scene: encode_scene(encoder, scene, head, smoothing=smoothing)


def lifted_features(head: str = "lang") -> FeatureSource:
    """Features of the 2D teacher lifted onto the Gaussians, without a 3D encoder."""
    return lambda scene: lifted_scene(scene, head)


def predict_classes(features: Tensor, texts: Tensor) -> np.ndarray:
    """The text [L, d] of highest cosine for each feature [N, d]: int64 [N], -1 where a feature is zero."""
    length = torch.linalg.vector_norm(features.float(), dim=1)
    labels = classify(features, torch.nn.functional.normalize(texts.float(), dim=1))[0]
    return torch.where(length > 0, labels, -1).cpu().numpy()


def evaluate_zero_shot(
    scenes: Iterable[EvaluationScene], features: FeatureSource, texts: Tensor, score: SegmentationScore
) -> dict[str, Any]:
    """Score every scene; the report of :class:`SegmentationScore`.

    Args:
        texts: embedding of each of the score's classes [L, d].
    """
    for scene in scenes:
        score.add(scene, predict_classes(features(scene.scene), texts))
    return score.report()
