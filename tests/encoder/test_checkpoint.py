"""Reading and writing models; everything that can be wrong with a checkpoint is said."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from chorus_core.encoder import CheckpointError, ChorusEncoder, ChorusModel, ModelConfig, read_model, write_model
from chorus_core.encoder import checkpoint as checkpoint_module

TINY = ModelConfig(
    enc_channels=(8, 16),
    enc_depths=(1, 1),
    enc_num_head=(2, 2),
    patch_size=16,
    heads={"lang": 6, "dino": 4},
    head_ratio=2,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    write_model(tmp_path / "model", ChorusModel(TINY), {"name": "tiny"}, {"lang": torch.eye(6)[:, :3]})
    return tmp_path / "model"


def rewrite(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Replace the weights, with a hash that fits them."""
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["sha256"] = checkpoint_module._sha256(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


def test_a_model_comes_back(folder: Path) -> None:
    torch.manual_seed(0)
    written = ChorusModel(TINY).state_dict()
    model, description, basis = read_model(folder)
    assert description["name"] == "tiny"
    assert model.config == TINY
    assert not model.training
    assert torch.equal(basis["lang"], torch.eye(6)[:, :3])
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, written[key].half().float()), key
    encoder = ChorusEncoder.from_pretrained(folder)
    assert encoder.description["name"] == "tiny"


def test_nothing_half_written_is_left(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_missing_checkpoint_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'chorus_huge'.*neither a file or folder nor a shipped model"):
        read_model("chorus_huge")
    with pytest.raises(CheckpointError, match="nowhere"):
        ChorusEncoder.from_pretrained(tmp_path / "nowhere")


def test_a_shipped_name_may_come_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As programs hand it over that take a folder of a model; what lies in the working directory goes first."""
    assert read_model(Path("chorus_mini"))[1]["name"] == "chorus_mini"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chorus_mini").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_model(Path("chorus_mini"))


def test_names_do_not_leave_the_folder_of_shipped_models() -> None:
    with pytest.raises(CheckpointError):
        read_model("../encoder")


def test_missing_parts(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json: not a readable model description"):
        read_model(tmp_path / "empty")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: missing"):
        read_model(folder)


@pytest.mark.parametrize("text", ["", "{", "{}", "3", "[]", '{"model": 3}', '{"sha256": "x"}', "\xff"])
def test_a_bad_description(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_model(folder)


@pytest.mark.parametrize(
    "change", [{"enc_depths": [1]}, {"enc_num_head": [3, 3]}, {"heads": 3}, {"enc_channels": "wide"}]
)
def test_a_description_of_no_model(folder: Path, change: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"enc_channels": [8, 10**12]}, r"enc_channels\[1\] = 1000000000000: expected a whole number from 1 to 4096"),
        ({"enc_channels": [-8, 16]}, r"enc_channels\[0\] = -8"),
        ({"enc_channels": [8.0, 16]}, r"enc_channels\[0\] = 8.0"),
        ({"enc_depths": [1, 10**9]}, r"enc_depths\[1\] = 1000000000: expected a whole number from 1 to 64"),
        ({"enc_depths": [True, 1]}, r"enc_depths\[0\] = True"),
        ({"enc_num_head": [2, 0]}, r"enc_num_head\[1\] = 0"),
        ({"enc_channels": [8] * 9}, "enc_channels = .*: expected a list of up to 8 values"),
        ({"enc_channels": {"8": 16}}, "enc_channels = .*: expected a list"),
        ({"in_channels": "11"}, "in_channels = '11': expected a whole number from 1 to 1024"),
        ({"in_channels": None}, "in_channels = None"),
        ({"patch_size": 2**40}, "patch_size = 1099511627776"),
        ({"head_ratio": 10**15}, "head_ratio = 1000000000000000"),
        ({"heads": {"lang": 10**15}}, r"heads\['lang'\] = 1000000000000000: expected a whole number from 1 to 16384"),
        ({"heads": {"lang": float("nan")}}, r"heads\['lang'\] = nan"),
        ({"heads": {f"h{i}": 4 for i in range(1000)}}, "heads = .*: expected widths of up to 32 heads by name"),
        ({"heads": {"a.b": 4}}, "heads has 'a.b': expected names without dots"),
        ({"raw_heads": "pe"}, "raw_heads = 'pe': expected a list"),
        ({"shuffle_orders": 1}, "shuffle_orders = 1: expected true or false"),
        ({"grid_size": float("nan")}, "grid_size = nan: expected a number from 0.0001 to 10"),
        ({"grid_size": 0}, "grid_size = 0"),
        ({"enc_channels": [4096, 4096], "enc_depths": [64, 64], "head_ratio": 16}, "does not fit the model"),
    ],
)
def test_a_mistaken_number_costs_neither_time_nor_memory(
    folder: Path, change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_the_meta_device(config: ModelConfig) -> ChorusModel:
        assert torch.empty(0).device.type == "meta", "weights are made before they are known to fit"
        return ChorusModel(config)

    monkeypatch.setattr(checkpoint_module, "ChorusModel", on_the_meta_device)
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    began = time.process_time()
    with pytest.raises(CheckpointError, match=message) as caught:
        read_model(folder)
    assert time.process_time() - began < 3.0
    assert str(caught.value).startswith(str(folder)) and len(str(caught.value)) < 1700


def test_a_description_nested_deeply_or_of_any_length_is_one_line(folder: Path) -> None:
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text('{"model": ' + "[" * 100_000)
    with pytest.raises(CheckpointError, match=r"config\.json: nested more than 64 levels deep"):
        read_model(folder)
    digest = json.loads(whole)["sha256"]
    (folder / "config.json").write_text(whole.replace(digest, "x\\n" * 100_000))
    with pytest.raises(CheckpointError, match="sha256 is") as caught:
        read_model(folder)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["backbone.embedding.stem.linear.bias", "feature_basis.lang"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_refused(folder: Path, key: str, value: float) -> None:
    state = load_file(folder / "model.safetensors")
    state[key].view(-1)[1] = value
    rewrite(folder, state)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: '{key}' has values that are not finite"):
        read_model(folder)


def test_a_released_file_with_a_bad_value_or_head_is_refused(tmp_path: Path) -> None:
    torch.save({"module.a": torch.tensor(float("nan"))}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"model\.pth: 'module\.a' has values that are not finite"):
        read_model(tmp_path / "model.pth")
    for value in (torch.tensor(1.0), torch.zeros(0, 3)):  # the width of a head is read from these
        torch.save({"projectors.lang.mlp_head.2.weight": value}, tmp_path / "model.pth")
        with pytest.raises(CheckpointError, match=r"model\.pth: damaged or of another form"):
            read_model(tmp_path / "model.pth")


def test_a_flipped_bit_is_noticed(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256"):
        read_model(folder)


def test_a_file_cut_short(folder: Path, tmp_path: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors: damaged or of another form"):
        read_model(tmp_path / "cut.safetensors")


def test_missing_unexpected_and_misshapen_keys_are_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state.pop("backbone.embedding.stem.linear.bias")
    state["backbone.extra.weight"] = torch.zeros(2)
    state["projectors.lang.input_norm.weight"] = torch.zeros(5)
    rewrite(folder, state)
    with pytest.raises(CheckpointError) as error:
        read_model(folder)
    message = str(error.value)
    assert "missing keys: backbone.embedding.stem.linear.bias" in message
    assert "unexpected keys: backbone.extra.weight" in message
    assert "projectors.lang.input_norm.weight is (5,), expected (24,)" in message


def test_many_wrong_keys_are_cut_to_a_readable_list(folder: Path) -> None:
    rewrite(folder, {f"layer{i}": torch.zeros(1) for i in range(100)})
    with pytest.raises(CheckpointError, match="and 88 more"):
        read_model(folder)


class Attack:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, save: str) -> None:
    target, path = tmp_path / "was_run", tmp_path / "model.pth"
    content = {"state_dict": {"weight": Attack(target)}}
    if save == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        read_model(path)
    assert not target.exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"state_dict": {"a": 1}}, {"epoch": 3}, torch.zeros(3)])
def test_a_pth_without_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="expected a dict of tensors"):
        read_model(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 cut"])
def test_a_pth_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pth"):
        read_model(tmp_path / "model.pth")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_released_file_loads_unchanged(
    tmp_path: Path, prefix: str, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the architecture's widths made small: the input width and the heads come from the weights."""
    monkeypatch.setattr(
        checkpoint_module, "ModelConfig",
        lambda **given: ModelConfig(**{**TINY.to_dict(), "head_ratio": 4, **given}),
    )  # fmt: skip
    torch.manual_seed(0)
    config = ModelConfig(**{**TINY.to_dict(), "in_channels": 9, "head_ratio": 4, "heads": {"siglip": 5, "pe": 3}})
    state = ChorusModel(config).state_dict()
    content = {f"{prefix}{key}": value for key, value in state.items()}
    torch.save({"state_dict": content, "epoch": 3} if wrapped else content, tmp_path / "release.pth")
    model, _, basis = read_model(tmp_path / "release.pth")
    assert model.config.in_channels == 9
    assert model.config.heads == {"siglip": 5, "pe": 3}
    assert basis == {}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    """Without a head or a stem it is measured against the release's own architecture."""
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"missing keys: .*unexpected keys: conv1\.weight, fc\.bias"):
        read_model(tmp_path / "resnet.pth")
