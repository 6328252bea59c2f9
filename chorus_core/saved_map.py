"""A saved map, opened so that it answers questions."""

from __future__ import annotations

from pathlib import Path

import torch

from chorus_core.config import SemanticsConfig
from chorus_core.encoder import ChorusEncoder
from chorus_core.io.map_file import load_map
from chorus_core.semantics.semantic_map import SemanticMap
from chorus_core.semantics.text_side import TextSide


def open_saved_map(path: str | Path, config: SemanticsConfig | None = None) -> SemanticMap:
    """The map at ``path`` with the text side of the model that made its features.

    Raises:
        MapFileError: there are no features beside the ``.ply``, or they are of another map.
        CheckpointError: the model is not to be found.
        ValueError: the features are of another width than the model's texts.
    """
    labelled, model = load_map(path)
    encoder = ChorusEncoder.from_pretrained(model)
    text = TextSide(encoder.description, encoder.basis)
    semantics = SemanticMap(text, labelled.vocabulary, config or SemanticsConfig(), torch.device("cpu"))
    semantics.restore(labelled)
    return semantics
