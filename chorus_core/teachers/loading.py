"""Teachers by name: one line of text in a configuration, one teacher."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

from chorus_core.semantics.text_encoder import TextEncoderError, load_text_encoder
from chorus_core.teachers.base import Teacher, TeacherError

# Each builder imports what it needs when it is called: a teacher's libraries load when the teacher does.


def load_teacher(spec: str, device: torch.device | str = "cpu") -> Teacher:
    """The teacher that a text names: ``<kind>[:<argument>][?<option>=<value>&...]``.

    Forms (``LOCAL`` is a folder or weight file; nothing is fetched for it):

    * ``embedded``, ``embedded:LOCAL``: the one that comes with the package, or one like it.
    * ``open_clip:MODEL:TAG``, ``open_clip:hf-hub:REPOSITORY``, ``open_clip:LOCAL``, ``open_clip:MODEL:LOCAL``: patch
      features in text space. Option ``size`` (``512`` or ``384x512``, height first).
    * ``open_clip-masks:`` + as above: mask-pooled. Options ``size``, ``masks`` (``graph``, by default, or a SAM).
    * ``timm:MODEL.TAG``, ``timm:LOCAL``, ``timm:MODEL:LOCAL``: patch tokens. Options ``head``, ``size`` (shorter side).
    * ``enet:LOCAL``, ``torchvision:MODEL``, ``torchvision:MODEL:LOCAL``, ``transformers:NAME``, ``transformers:LOCAL``:
      closed-set networks, through text. Option ``text`` (a text encoder, default ``minilm``).

    Raises:
        TeacherError: unknown form or option, or something that it needs is not to be had.
    """
    kind, argument, options = _parse(spec)
    build = _BUILDERS.get(kind)
    if build is None:
        raise TeacherError(f"teacher {spec!r}: expected one of " + ", ".join(_FORMS))
    known = [p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(known)):
        raise TeacherError(f"teacher {spec!r}: no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    if not argument and kind != "embedded":
        raise TeacherError(f"teacher {spec!r}: names nothing after {kind!r}; expected one of " + ", ".join(_FORMS))
    try:
        return build(argument, torch.device(device), **options)
    except TextEncoderError as error:
        raise TeacherError(f"teacher {spec!r}: {error}") from error


def _parse(spec: str) -> tuple[str, str, dict[str, str]]:
    body, _, tail = spec.strip().partition("?")
    kind, _, argument = body.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, tail.split("&")):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise TeacherError(f"teacher {spec!r}: option {part!r}, expected <name>=<value>")
        options[key] = value
    return kind, argument, options


def _embedded(argument: str, device: torch.device) -> Teacher:
    from chorus_core.teachers.embedded import load_embedded

    return load_embedded(argument, device) if argument else load_embedded(device=device)


def _open_clip(argument: str, device: torch.device, *, size: str = "") -> Teacher:
    from chorus_core.teachers.open_clip_dense import DenseOpenClipTeacher
    from chorus_core.teachers.open_clip_tower import load_image_tower

    return DenseOpenClipTeacher(load_image_tower(*_model_and_weights(argument), device, _height_width(size)))


def _open_clip_masks(argument: str, device: torch.device, *, size: str = "", masks: str = "graph") -> Teacher:
    from chorus_core.teachers.mask_pooling import MaskPooledTeacher
    from chorus_core.teachers.mask_proposers import load_mask_proposer
    from chorus_core.teachers.open_clip_tower import load_image_tower

    tower = load_image_tower(*_model_and_weights(argument), device, _height_width(size))
    return MaskPooledTeacher(tower, load_mask_proposer(masks, device))


def _timm(argument: str, device: torch.device, *, head: str = "", size: str = "") -> Teacher:
    from chorus_core.teachers.timm_backbone import load_timm

    model, checkpoint = _model_and_weights(argument)
    return load_timm(model, device, checkpoint, head or None, _pixels(size) if size else None)


def _enet(argument: str, device: torch.device, *, text: str = "minilm") -> Teacher:
    from chorus_core.teachers.closed_set import ClosedSetTeacher
    from chorus_core.teachers.enet import ENetSegmenter

    return ClosedSetTeacher(ENetSegmenter(argument, device), load_text_encoder(text, device))


def _torchvision(argument: str, device: torch.device, *, text: str = "minilm") -> Teacher:
    from chorus_core.teachers.closed_set import ClosedSetTeacher
    from chorus_core.teachers.segmenters import TorchvisionSegmenter

    return ClosedSetTeacher(
        TorchvisionSegmenter(*_model_and_weights(argument), device), load_text_encoder(text, device)
    )


def _transformers(argument: str, device: torch.device, *, text: str = "minilm") -> Teacher:
    from chorus_core.teachers.closed_set import ClosedSetTeacher
    from chorus_core.teachers.segmenters import TransformersSegmenter

    return ClosedSetTeacher(TransformersSegmenter(argument, device), load_text_encoder(text, device))


_BUILDERS: dict[str, Callable[..., Teacher]] = {
    "embedded": _embedded,
    "open_clip": _open_clip,
    "open_clip-masks": _open_clip_masks,
    "timm": _timm,
    "enet": _enet,
    "torchvision": _torchvision,
    "transformers": _transformers,
}

_FORMS = (
    *("embedded", "embedded:<folder or file>", "open_clip:<model>:<tag>", "open_clip:<folder>"),
    *("open_clip-masks:<as open_clip>[?masks=<SAM model>]", "timm:<model>", "timm:<folder>", "timm:<model>:<file>"),
    *("enet:<file>", "torchvision:<model>[:<file>]", "transformers:<name or folder>"),
)


def _model_and_weights(argument: str) -> tuple[str, str | None]:
    """Splits ``<model>:<weights>``; sources that carry their weights have a prefix or are paths."""
    if argument.startswith(("hf-hub:", "local-dir:", "/", ".", "~")):
        return argument, None
    model, _, weights = argument.partition(":")
    return model, weights or None


def _pixels(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise TeacherError(f"size = {text!r}: expected pixels, for instance 448")
    return int(text)


def _height_width(text: str) -> tuple[int, int] | None:
    """``512`` or ``384x512``, height first; None for the model's own."""
    if not text:
        return None
    sides = [_pixels(side) for side in text.split("x")]
    if len(sides) > 2:
        raise TeacherError(f"size = {text!r}: expected pixels, or height x width such as 384x512")
    return sides[0], sides[-1]
