"""Small inputs of the readers of trained weights and of descriptions of models, and what must hold of the results."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).parent / "semantics"))  # pytest's importlib mode does not find it
from hashed_encoder import HashedEncoder

from chorus_core.encoder import CheckpointError, ChorusModel, ModelConfig, read_model, write_model
from chorus_core.io.documents import read_json
from chorus_core.io.weights import read_state
from chorus_core.semantics.vocabulary import Vocabulary

TINY = ModelConfig(
    enc_channels=(8, 16), enc_depths=(1, 1), enc_num_head=(2, 2), patch_size=16, heads={"lang": 6}, head_ratio=2
)


def check_finite(values: Any, name: str) -> None:
    array = values.detach().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    assert np.isfinite(array).all(), f"{name} is not finite"


def write_checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    write_model(folder, ChorusModel(TINY), {"name": "tiny"}, {"lang": torch.eye(6)[:, :3]})


def read_checkpoint(folder: Path) -> None:
    model, _, _ = read_model(folder)
    for name, value in model.state_dict().items():
        check_finite(value, name)


def rehashed(folder: Path) -> Path:
    """With a hash that fits the damaged weights, so that the hash is not all that finds the damage."""
    description = folder / "config.json"
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    found = re.sub(rb'"sha256": "[0-9a-f]{64}"', b'"sha256": "%s"' % digest.encode(), description.read_bytes())
    description.write_bytes(found)
    return folder


def write_weights(suffix: str, legacy: bool = False) -> Callable[[Path], None]:
    """Weights of another architecture than the release's: whole, they are refused as a model by their names."""

    def write(folder: Path) -> None:
        from safetensors.torch import save_file

        state = {f"module.{key}": value.half() for key, value in ChorusModel(TINY).state_dict().items()}
        if suffix == ".pth":
            content = {"state_dict": state, "epoch": 3}
            torch.save(content, folder / "weights.pth", _use_new_zipfile_serialization=not legacy)
        else:
            save_file(state, folder / "weights.safetensors")

    return write


def check_tensors(state: dict[str, Any]) -> None:
    for name, value in state.items():
        assert isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided
        assert not value.is_complex()
        check_finite(value.float(), name)


def read_released(folder: Path) -> None:
    try:
        read_model(next(folder.iterdir()))
    except CheckpointError as error:
        if "does not fit the model" not in str(error):
            raise


def write_state(folder: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}
    torch.save(content, folder / "state.pt")


def read_saved_state(folder: Path) -> None:
    content = read_state(folder / "state.pt")
    if isinstance(content.get("model"), dict):
        check_tensors(content["model"])


def write_enet(folder: Path) -> None:
    from chorus_core.teachers.enet import ENet

    torch.manual_seed(0)
    torch.save(ENet().half().state_dict(), folder / "enet.pth")


def read_enet(folder: Path) -> None:
    from chorus_core.teachers.enet import ENetSegmenter

    check_tensors(ENetSegmenter(folder / "enet.pth")._network.state_dict())


def write_teacher(folder: Path) -> None:
    from chorus_core.teachers.embedded import EmbeddedConfig, build_net, write_embedded

    torch.manual_seed(0)
    heads = {"lang": 6, "gen": 4}
    config = EmbeddedConfig(
        heads, stem=4, widths=(4, 4, 4, 4), depths=(1, 1, 1, 1), pyramid=4, hidden=4, height=32
    )  # fmt: skip
    write_embedded(folder, build_net(config), {"name": "little"})


def read_teacher(folder: Path) -> None:
    from chorus_core.teachers.embedded import load_embedded

    teacher = load_embedded(folder)
    check_tensors(teacher._net.state_dict())
    assert isinstance(teacher.name, str) and isinstance(teacher.text, str)


def read_sentence_encoder(folder: Path) -> None:
    from chorus_core.semantics.text_encoder import MiniLMEncoder

    encoder = MiniLMEncoder(folder=folder)
    check_tensors(encoder._model.state_dict())
    encoded = encoder.encode(["a chair", "", "a sofa"])
    assert encoded.shape == (3, encoder.dim)
    check_finite(encoded, "embeddings")


def write_text_side(folder: Path) -> None:
    calibration = {"scale": 13.5, "offset": -1.5, "contrast": 0.25, "commonness": 0.0}
    text = {"encoder": "given", "head": "lang", "prompts": ["a {label}", "{label}"]}
    (folder / "config.json").write_text(json.dumps({"text": text, "calibration": calibration, "threshold": 0.625}))


def read_text_side(folder: Path) -> None:
    from chorus_core.semantics.text_side import TextSide

    encoder = HashedEncoder()
    side = TextSide(read_json(folder / "config.json"), {}, encoder)
    assert isinstance(side.head, str) and 0 < side.threshold < 1
    check_finite(side.relevancy(encoder.encode(["a", "bb", "chair"]), "chair"), "relevancy")
    check_finite(side.embed_labels(Vocabulary(("a", "b"))), "labels")
