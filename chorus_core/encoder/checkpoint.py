"""Reading and writing models: a folder of our own, or a released checkpoint, as a file or by its name on the hub.

A model folder holds ``config.json`` (architecture, hash of the weights, what its text side is) and
``model.safetensors``. A released file is a ``.pth`` whose ``state_dict`` may carry a ``module.`` prefix; it is read
without running its code, and its architecture must be the release's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from chorus_core.encoder.hub import HubError, fetch_weights, is_hub_name
from chorus_core.encoder.model import ChorusModel, ModelConfig
from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import read_json
from chorus_core.io.errors import ReadError, reading
from chorus_core.io.weights import check_fit, read_weights

SHIPPED = Path(__file__).resolve().parents[1] / "models"
"""Folder of the models that come with the package."""

RELEASED_TEXT_ENCODER, _RELEASED_TEXT_DIM = "open_clip:ViT-SO400M-16-SigLIP2-512:webli", 1152
"""Of the release's language head; the tokenizer of that model pads to 64 tokens, as the release does."""

BASIS_PREFIX = "feature_basis."
"""Tensors of a model file that belong to the compact feature space, not to the network."""


class CheckpointError(ReadError):
    """A checkpoint that is missing, damaged, or of another architecture; the message says which, and names keys."""


def read_model(name_or_path: str | Path) -> tuple[ChorusModel, dict[str, Any], dict[str, Tensor]]:
    """A model in evaluation mode, the description that came with it, and its feature basis (may be empty).

    Args:
        name_or_path: name of a shipped model, a model folder, a released ``.pth``/``.safetensors`` file, or such a
            file on the Hugging Face hub as ``OWNER/REPOSITORY:NAME``, e.g.
            ``SceneSplatPro/Chorus:lang-dino-enc-pretrain-scan-ppv2-mp3d-mcmc``.

    Raises:
        CheckpointError: see there.
    """
    path = _locate(name_or_path)
    if path.is_dir():
        description, state = _read_folder(path)
        with reading(path / "config.json", CheckpointError):
            config = ModelConfig.from_dict(description["model"])
    else:
        state = _strip_module(read_weights(path, CheckpointError))
        with reading(path, CheckpointError):
            config = _released_config(state)
        description = {"name": path.stem, "model": {}, "sha256": _sha256(path), **_released_text(config)}
    basis = {k.removeprefix(BASIS_PREFIX): state.pop(k) for k in list(state) if k.startswith(BASIS_PREFIX)}
    return _build(config, state, path), description, basis


def write_model(
    folder: str | Path, model: ChorusModel, description: Mapping[str, Any], basis: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model folder; weights are stored in half precision, which costs nothing measurable."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().half().contiguous() for key, value in model.state_dict().items()}
    state |= {f"{BASIS_PREFIX}{k}": v.detach().cpu().float().contiguous() for k, v in (basis or {}).items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(state, temporary)
        digest = _sha256(temporary)
    content = {**description, "model": model.config.to_dict(), "sha256": digest}
    with atomic_path(folder / "config.json") as temporary:
        Path(temporary).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))


def _locate(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.exists():
        return path
    if str(name_or_path) in shipped_models():  # also as a path, which a program may take all of its arguments for
        return SHIPPED / name_or_path
    if is_hub_name(str(name_or_path)):
        try:
            return fetch_weights(str(name_or_path))
        except HubError as error:
            raise CheckpointError(str(error)) from error
    raise CheckpointError(
        f"no checkpoint {str(name_or_path)!r}: neither a file or folder nor a shipped model {shipped_models()}, nor "
        "OWNER/REPOSITORY:NAME on the hub"
    )


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    weights = path / "model.safetensors"
    try:
        description = read_json(path / "config.json", error=CheckpointError)
    except OSError as error:
        raise CheckpointError(f"{path / 'config.json'}: not a readable model description ({error})") from error
    if not isinstance(description.get("model"), dict):
        raise CheckpointError(f"{path / 'config.json'}: expected an object with an object 'model'")
    if not weights.is_file():
        raise CheckpointError(f"{weights}: missing")
    expected, found = description.get("sha256"), _sha256(weights)
    if expected != found:
        raise CheckpointError(
            f"{weights}: sha256 is {found}, config.json expects {expected!s:.80}; the file is damaged"
        )
    return description, read_weights(weights, CheckpointError)


def _strip_module(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in state.items()}


def _build(config: ModelConfig, state: Mapping[str, Tensor], path: Path) -> ChorusModel:
    """A model with these weights; none is made before they are known to fit, as a description may name any size."""
    with reading(path, CheckpointError):
        with torch.device("meta"):
            expected = ChorusModel(config).state_dict()
        check_fit(state, expected, path, CheckpointError)
        model = ChorusModel(config)
        model.load_state_dict({key: value.float() for key, value in state.items()})
    return model.eval()


def _released_config(state: Mapping[str, Tensor]) -> ModelConfig:
    """The release's architecture with the input width and heads that the weights show."""
    stem = state.get("backbone.embedding.stem.linear.weight")
    last = ".mlp_head.2.weight"
    heads = {
        key[len("projectors.") : -len(last)]: value.shape[0]
        for key, value in state.items()
        if key.startswith("projectors.") and key.endswith(last)
    }
    defaults = ModelConfig()
    return ModelConfig(
        in_channels=stem.shape[1] if stem is not None and stem.ndim == 2 else defaults.in_channels,
        heads=heads or dict(defaults.heads),
    )


def _released_text(config: ModelConfig) -> dict[str, Any]:
    """The text side of the release (its zero-shot protocol): SigLIP2-SO400M, labels as "this is a {label}"."""
    if config.heads.get("lang") != _RELEASED_TEXT_DIM:
        return {}
    return {"text": {"encoder": RELEASED_TEXT_ENCODER, "head": "lang", "prompts": ["this is a {label}"]}}


def _sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
