"""A saved map, opened so that it answers questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus_core.config import SemanticsConfig
from chorus_core.encoder import ChorusEncoder
from chorus_core.io.map_file import MapFileError, load_map
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.query import QueryResult, answer_query
from chorus_core.semantics.text_side import TextSide


@dataclass(frozen=True)
class SavedMap:
    """A labelled map and the text side of the model that made its features."""

    labelled: LabelledMap
    text: TextSide
    config: SemanticsConfig

    def query(
        self, text: str, negatives: Sequence[str] = (), threshold: float = 0.0, max_objects: int = 0
    ) -> QueryResult:
        """Where the map agrees with a text; see :func:`chorus_core.semantics.query.answer_query`."""
        return answer_query(self.labelled, self.text, self.config, text, negatives, threshold, max_objects)


def open_saved_map(path: str | Path, config: SemanticsConfig | None = None, model: str = "") -> SavedMap:
    """The map at ``path`` with the text side of the model that made its features.

    Args:
        model: where that model is now, if it was moved since.

    Raises:
        MapFileError: a part of the map is missing or damaged, or its features are of another model.
        OSError: there is no such ``.ply``, or it is not readable.
        CheckpointError: the model is not to be found.
    """
    labelled, made_by = load_map(path)
    encoder = ChorusEncoder.from_pretrained(model or made_by.name)
    found = encoder.description.get("sha256", "")
    if made_by.sha256 and made_by.sha256 != found:
        raise MapFileError(
            f"{path} was encoded by {made_by.name} with sha256 {made_by.sha256:.12}; {model or made_by.name} has "
            f"{found or 'none':.12}: encode the map again, or name the model that made it"
        )
    text = TextSide.of(encoder)
    if labelled.features.shape[1] != text.dim:
        raise MapFileError(
            f"{path} has features of width {labelled.features.shape[1]}, the texts of {model or made_by.name} have "
            f"{text.dim}: encode the map again, or name the model that made it"
        )
    return SavedMap(labelled, text, config or SemanticsConfig())
