"""Files of weights: what comes back, and what is refused before it costs anything."""

from __future__ import annotations

import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from chorus_core.io.errors import ReadError
from chorus_core.io.weights import WeightsError, check_fit, check_tensors, read_state, read_weights


class OwnError(ReadError):
    pass


STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "a.bias": torch.tensor([0.5, -1.5], dtype=torch.float16),
    "a.count": torch.tensor(7),
    "b": torch.ones(2, 3, 4).permute(2, 0, 1).to(torch.bfloat16),
}


def save(path: Path, content: Any, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def repacked(path: Path, edit: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """The same archive with its entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, edit(name, content))
    return path


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "under state_dict", "parameters"])
def test_what_was_written_comes_back(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file({name: value.contiguous() for name, value in STATE.items()}, path)
    elif form == "under state_dict":
        save(path, {"state_dict": STATE, "epoch": 3, "notes": ["x"]})
    elif form == "parameters":
        save(path, {k: nn.Parameter(v, requires_grad=v.is_floating_point()) for k, v in STATE.items()})
    else:
        save(path, STATE, legacy=form == "legacy")
    found = read_weights(path)
    assert found.keys() == STATE.keys()
    for name, value in found.items():
        assert type(value) is Tensor and not value.requires_grad
        assert value.dtype == STATE[name].dtype and torch.equal(value, STATE[name]), name


def test_tied_weights_are_read(tmp_path: Path) -> None:
    table = torch.randn(300, 50)
    found = read_weights(save(tmp_path / "w.pth", {"in": table, "out": table}))
    assert torch.equal(found["in"], table) and torch.equal(found["out"], table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected a dict of tensors, or one under 'state_dict'"),
        ({"a": 1}, "expected a dict of tensors"),
        ({3: torch.zeros(2)}, "expected a dict of tensors"),
        ({"state_dict": [torch.zeros(2)]}, "expected a dict of tensors"),
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' has values that are not finite"),
        ({"a": torch.tensor([float("-inf")], dtype=torch.float16)}, "'a' has values that are not finite"),
        ({"a": torch.tensor([1e300], dtype=torch.float64)}, "'a' has values that are not finite"),
        ({"a": torch.eye(3).to_sparse()}, "'a' is no dense tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "'a' is no dense tensor"),
        ({"a": torch.zeros(2, dtype=torch.bool)}, "'a' is no dense tensor"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is no dense tensor"),
        ({"a": torch.zeros(1).expand(10**9, 10**6)}, "tensors of 4000000000000000 bytes in all: expected at most"),
        ({"x" * 9000: torch.zeros(1, dtype=torch.bool)}, "xxx"),
    ],
)
def test_anything_but_finite_dense_tensors_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    save(tmp_path / "w.pth", content)
    with pytest.raises(OwnError, match=r"w\.pth: ") as caught:
        read_weights(tmp_path / "w.pth", OwnError)
    assert message in str(caught.value) and len(str(caught.value)) < 600


def test_safetensors_are_held_to_the_same(tmp_path: Path) -> None:
    save_file({"fine": torch.zeros(2), "bad": torch.tensor([float("inf")])}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"w\.safetensors: 'bad' has values that are not finite"):
        read_weights(tmp_path / "w.safetensors")
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(WeightsError, match=r"w\.safetensors: damaged or of another form"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 cut", pickle.dumps({"a": 1}, protocol=2)])
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: damaged or of another form") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        for read in (read_weights, read_state):
            with pytest.raises(OwnError, match="missing, or no file"):
                read(path, OwnError)


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path: Path) -> None:
    path = save(tmp_path / "w.pth", {"a": torch.zeros(1_000_000)})
    repacked(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"announces 4000\d+ bytes, the file has \d{4,5}$"):
        read_weights(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_length_in_the_pickle_is_held_to_the_file(tmp_path: Path, legacy: bool) -> None:
    """16 GiB are announced and not asked for: there is no room for them."""
    path = save(tmp_path / "w.pth", {"a": torch.zeros(77)}, legacy)

    def announce(_: str, content: bytes) -> bytes:
        return content.replace(b"K\x4d", b"\x8a\x05" + (1 << 32).to_bytes(5, "little"))

    if legacy:
        path.write_bytes(announce("", path.read_bytes()))
    else:
        repacked(path, announce)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=r"w\.pth: ") as caught:
        read_weights(path)
    assert "allocate" not in str(caught.value)
    if legacy:
        assert "announces 4294967296 bytes" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("legacy", [False, True])
def test_a_name_without_end_is_refused_at_once(tmp_path: Path, legacy: bool) -> None:
    path = save(tmp_path / "w.pth", STATE, legacy)
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"

    def lengthen(_: str, content: bytes) -> bytes:
        return content.replace(rebuild, rebuild[:-1] + b"x" * 300_000 + b"\n")

    if legacy:
        path.write_bytes(lengthen("", path.read_bytes()))
    else:
        repacked(path, lengthen)
    began = time.process_time()
    with pytest.raises(WeightsError, match="a function or class with a name of 3000"):
        read_weights(path)
    assert time.process_time() - began < 5.0


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_not_run(tmp_path: Path, legacy: bool) -> None:
    save(tmp_path / "w.pth", {"a": _Attack(tmp_path / "was_run")}, legacy)
    for read in (read_weights, read_state):
        with pytest.raises(WeightsError, match=r"w\.pth: damaged or of another form: UnpicklingError"):
            read(tmp_path / "w.pth")
    assert not (tmp_path / "was_run").exists()


def test_a_state_has_tensors_and_plain_values_in_any_order(tmp_path: Path) -> None:
    content = {
        "model": STATE,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 0.1}]},
        "n": 2,
    }
    found = read_state(save(tmp_path / "state.pt", content))
    assert found["n"] == 2 and found["optimizer"]["groups"] == [{"lr": 0.1}]
    assert found["optimizer"]["state"][0]["step"] == 3.0
    assert torch.equal(found["model"]["a.weight"], STATE["a.weight"])
    content["optimizer"]["state"][0]["step"].fill_(float("nan"))
    with pytest.raises(WeightsError, match=r"state\.pt: 'optimizer\.state\.0\.step' has values that are not finite"):
        read_state(save(tmp_path / "state.pt", content))
    with pytest.raises(WeightsError, match=r"state\.pt: expected a dict, got list"):
        read_state(save(tmp_path / "state.pt", [1]))


def test_tensors_of_other_readers_are_checked_by_name() -> None:
    check_tensors(STATE, "net")
    with pytest.raises(OwnError, match=r"^net: 'a' has values that are not finite$"):
        check_tensors({"a": torch.tensor(float("nan"))}, "net", OwnError)


def test_what_does_not_fit_is_listed() -> None:
    expected = {name: torch.empty(2, 3, device="meta") for name in ("a", "b", "c")}
    check_fit({name: torch.zeros(2, 3) for name in "abc"}, expected, "net")
    with pytest.raises(OwnError) as caught:
        check_fit({"a": torch.zeros(3, 2), "b": torch.zeros(2, 3), "d": torch.zeros(1)}, expected, "net", OwnError)
    assert str(caught.value) == (
        "net does not fit the model; missing keys: c; unexpected keys: d; wrong shapes: a is (3, 2), expected (2, 3)"
    )
    with pytest.raises(WeightsError, match=r"unexpected keys: k0, k1, k10, .* and 88 more$"):
        check_fit({f"k{i}": torch.zeros(1) for i in range(100)}, {}, "net")
