"""The text side of a model: the space its features are stored in, and how texts are compared with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chorus_core.io.architecture import check_number
from chorus_core.io.errors import ReadError
from chorus_core.semantics.calibration import Calibration, CalibrationError
from chorus_core.semantics.relevancy import LERF, NEGATIVES, REFERENCE, FeatureBasis, relevancy
from chorus_core.semantics.text_encoder import TextEncoder, load_text_encoder
from chorus_core.semantics.vocabulary import PROMPTS, Vocabulary, encode_labels, load_vocabulary

if TYPE_CHECKING:
    from chorus_core.encoder import ChorusEncoder

DEFAULT_ENCODER = "minilm"
DEFAULT_HEAD = "lang"
DEFAULT_THRESHOLD = 0.6
"""Relevancy that counts as a match where a checkpoint brings no calibration (LERF's score is 0.5 at a tie)."""

_STEEPEST = 1e6
"""Largest value of a calibration: beyond, products of float32 are no numbers."""


class TextSideError(ReadError):
    """A model description whose text side cannot be used; the message names the entry, its value and what is wrong."""


class TextSide:
    """Turns features and texts into one compact space, and compares them there.

    Args:
        description: of a model folder (``ChorusEncoder.description``). Read are ``text`` (``encoder``, ``head`` and
            ``prompts``, which hold ``{label}``), ``calibration`` (the fields of
            :class:`~chorus_core.semantics.calibration.Calibration`) and ``threshold``; each may be absent.
        basis: ``{"basis": [D, d]}``, orthonormal columns (``ChorusEncoder.basis``); empty keeps features as they are.
        text_encoder: of the space the model was trained on; None loads the one the description names.
        device: where texts and basis live; features are taken on any.

    Attributes:
        head: the model's projector whose features these are.
        calibration: None where the checkpoint brings none; relevancy is LERF's then.
        threshold: relevancy in (0, 1) from which a Gaussian matches a query.
        dim: width of projected features and texts, d.

    Raises:
        TextSideError: an entry is malformed, or widths do not fit together.
    """

    def __init__(
        self,
        description: Mapping[str, Any] | None = None,
        basis: Mapping[str, Tensor] | None = None,
        text_encoder: TextEncoder | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        description = description or {}
        text = _entry(description, "text", Mapping, {})
        self.head = _name(text, "head", DEFAULT_HEAD)
        self.prompts = _prompts(text.get("prompts", PROMPTS))
        self.device = torch.device(device)
        name = _name(text, "encoder", DEFAULT_ENCODER)
        self.encoder = text_encoder or load_text_encoder(name, self.device)
        self.basis = _basis(basis or {}, self.encoder.dim, self.device)
        self.dim = self.encoder.dim if self.basis is None else self.basis.dim
        self.calibration = _calibration(description)
        self.threshold = _threshold(description)
        self.negatives = self.embed_texts(NEGATIVES)  # [M, d]
        self.reference = self._ordinary_names()  # [R, d]

    @classmethod
    def of(cls, encoder: ChorusEncoder) -> TextSide:
        """The text side that a model names.

        Raises:
            TextSideError: as above, or the model has no projector of the width of its texts.
        """
        side = cls(encoder.description, encoder.basis)
        heads = encoder.model.config.heads
        if heads.get(side.head) != side.encoder.dim:
            raise TextSideError(
                f"the model's heads are {heads}: expected {side.head!r} with {side.encoder.dim}, the width of its texts"
            )
        return side

    def project_features(self, features: Tensor) -> Tensor:
        """Unit features of the model's head [N, D] in the compact space, float16 [N, d].

        Raises:
            ValueError: features are of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.encoder.dim:
            raise ValueError(f"features have shape {tuple(features.shape)}: expected (any, {self.encoder.dim})")
        return features.half() if self.basis is None else self.basis.project(features, torch.float16)

    def embed_labels(self, vocabulary: Vocabulary, cancelled: threading.Event | None = None) -> Tensor:
        """The labels of a vocabulary in the compact space, float32 [L, d], for
        :func:`~chorus_core.semantics.relevancy.classify`.

        Raises:
            VocabularyCancelled: ``cancelled`` was set; it is looked at before each batch of texts.
        """
        return self._project(encode_labels(vocabulary, self.encoder, self.prompts, cancelled))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts in the compact space, float32 [T, d]."""
        return self._project(self.encoder.encode(list(texts)))

    def embed_query(self, text: str) -> Tensor:
        """A text, as :func:`~chorus_core.semantics.query_text.check_query` returns it, in the compact space [d]."""
        return self.embed_texts([text])[0]

    def relevancy(self, features: Tensor, query: str | Tensor, negatives: Sequence[str] = ()) -> Tensor:
        """Relevancy of projected features to a query, in [0, 1].

        The built-in negatives are part of the score. Negatives of the asker are a veto on top: where a feature is
        more similar to one of them than to the query, its score falls as ``2 sigmoid(s (f.t - f.n))``; where it is
        less similar nothing changes, so that the calibrated threshold keeps its meaning.

        Args:
            features: of :meth:`project_features`, on any device [N, d].
            query: a text, or its :meth:`embed_query` [d].
            negatives: texts that describe what is not meant.

        Returns:
            float32 on the features' device [N].
        """
        return self.scorer(query, negatives)(features)

    def scorer(self, query: str | Tensor, negatives: Sequence[str] = ()) -> Callable[[Tensor], Tensor]:
        """:meth:`relevancy` of one query as a function of features; texts are encoded once."""
        text = self.embed_query(query) if isinstance(query, str) else query
        vetoes = self.embed_texts(negatives) if negatives else None
        pairwise = Calibration(scale=(self.calibration or LERF).scale, offset=0.0, contrast=1.0)

        def score(features: Tensor) -> Tensor:
            found = relevancy(features, text, self.negatives, self.reference, calibration=self.calibration)
            if vetoes is not None:
                found *= (2.0 * relevancy(features, text, vetoes, calibration=pairwise)).clamp(max=1.0)
            return found

        return score

    def _project(self, embeddings: Tensor) -> Tensor:
        embeddings = embeddings.to(self.device, torch.float32)
        return embeddings if self.basis is None else self.basis.project(embeddings)

    def _ordinary_names(self) -> Tensor | None:
        """What a text's commonness is measured with; not needed (a second of encoding) where it has no weight."""
        if self.calibration is None or self.calibration.commonness == 0:
            return None
        return self.embed_texts(load_vocabulary(REFERENCE).labels)


def _entry(description: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = description.get(name, default)
    if not isinstance(value, kind):
        raise TextSideError(f"model description: {name} = {value!r:.80}: expected a mapping")
    return value


def _name(text: Mapping[str, Any], entry: str, default: str) -> str:
    value = text.get(entry, default)
    if not isinstance(value, str) or not value:
        raise TextSideError(f"model description: text.{entry} = {value!r:.80}: expected a name")
    return value


def _prompts(value: Any) -> tuple[str, ...]:
    prompts = tuple(value) if isinstance(value, list | tuple) else ()
    if not prompts or not all(isinstance(prompt, str) and "{label}" in prompt for prompt in prompts):
        raise TextSideError(f"model description: text.prompts = {value!r:.80}: expected texts that hold '{{label}}'")
    return prompts


def _calibration(description: Mapping[str, Any]) -> Calibration | None:
    values = _entry(description, "calibration", Mapping, {})
    if not values:
        return None
    known = {field.name for field in fields(Calibration)}
    if not {"scale", "offset"} <= set(values) <= known:
        raise TextSideError(f"model description: calibration has {sorted(values)}: expected {sorted(known)}")
    try:
        for name, value in values.items():
            check_number(name, value, -_STEEPEST, _STEEPEST)
        return Calibration(**{name: float(value) for name, value in values.items()})
    except (CalibrationError, ValueError) as error:
        raise TextSideError(f"model description: calibration: {error}") from error


def _threshold(description: Mapping[str, Any]) -> float:
    value = description.get("threshold", DEFAULT_THRESHOLD)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise TextSideError(f"model description: threshold = {value!r:.80}: expected a number in (0, 1)")
    return float(value)


def _basis(tensors: Mapping[str, Tensor], width: int, device: torch.device) -> FeatureBasis | None:
    if not tensors:
        return None
    if set(tensors) != {"basis"}:
        raise TextSideError(f"feature basis has tensors {sorted(tensors)}: expected 'basis'")
    basis = tensors["basis"].to(device, torch.float32)
    if basis.ndim != 2 or basis.shape[0] != width or not 1 <= basis.shape[1] <= width:
        raise TextSideError(f"feature basis has shape {tuple(basis.shape)}: expected ({width}, 1 to {width})")
    if not torch.isfinite(basis).all():
        raise TextSideError("feature basis holds non-finite values: expected an orthonormal basis")
    return FeatureBasis(basis)
