from __future__ import annotations

import builtins
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from local_hub import serve_hub

from chorus_core.teachers import TeacherError, load_teacher
from chorus_core.teachers.hub import fingerprint, loading, local_path

hub = pytest.importorskip("huggingface_hub")


class Refusing(BaseHTTPRequestHandler):
    """A hub that answers every request the way the real one answers for a repository that it does not give."""

    status, code = 404, "RepoNotFound"

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("X-Error-Message", "refused")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Refusing]]:
    """Sends the hub's client to such a hub."""
    with serve_hub(Refusing, tmp_path / "cache", monkeypatch):
        yield Refusing


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's client behaves as without a connection, with an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_gated_weights_say_that_access_must_be_granted(
    refusing_hub: type[Refusing], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    monkeypatch.setattr(refusing_hub, "status", 403)
    monkeypatch.setattr(refusing_hub, "code", "GatedRepo")
    with pytest.raises(TeacherError) as caught:
        load_teacher("timm:hf-hub:someone/gated-model")
    message = str(caught.value)
    assert "someone/gated-model" in message
    assert "gated: ask for access" in message
    assert "hf auth login" in message
    assert "timm:<folder>" in message


def test_an_unknown_repository_says_so(refusing_hub: type[Refusing]) -> None:
    pytest.importorskip("timm")
    with pytest.raises(TeacherError, match="the hub has no such repository or file: check the name"):
        load_teacher("timm:hf-hub:someone/no-such-model")


@pytest.mark.parametrize(
    ("spec", "repository", "form"),
    [
        ("timm:test_vit.r160_in1k", "timm/test_vit.r160_in1k", "timm:<folder>"),
        ("open_clip:RN50:openai", "timm/resnet50_clip.openai", "open_clip:<folder>"),
        ("transformers:someone/segformer", "someone/segformer", "transformers:<folder>"),
    ],
)
def test_without_a_connection_the_name_the_places_and_the_way_out_are_told(
    no_hub: Path, spec: str, repository: str, form: str
) -> None:
    package = spec.split(":")[0]
    pytest.importorskip(package)
    with pytest.raises(TeacherError) as caught:
        load_teacher(spec)
    message = str(caught.value)
    assert "hub cannot be reached" in message
    assert str(no_hub) in message
    assert f"hf download {repository}" in message
    assert form in message


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for spec in ("enet:weights/enet.pth", "timm:./nowhere", "transformers:./nowhere", "open_clip:./nowhere"):
        name = spec.split(":")[1]
        with pytest.raises(TeacherError) as caught:
            load_teacher(spec)
        assert f"{name}: no such file or folder (looked for {tmp_path / name.removeprefix('./')})" in str(caught.value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TeacherError, match="pip install transformers"):
        load_teacher("transformers:someone/segformer")


def test_other_errors_keep_their_text() -> None:
    with pytest.raises(TeacherError, match="model 'm': the size is odd") as caught, loading("model 'm'", "m:<folder>"):
        raise RuntimeError("the size is odd\nand a long trace")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_paths_and_names_are_told_apart(tmp_path: Path) -> None:
    assert local_path(str(tmp_path)) == tmp_path
    assert local_path("nvidia/segformer-b0") is None
    assert local_path("vit_small_patch16_dinov3.lvd1689m") is None
    with pytest.raises(TeacherError, match="looked for"):
        local_path("weights.safetensors")


def test_fingerprint_follows_contents(tmp_path: Path) -> None:
    one, other = tmp_path / "a.bin", tmp_path / "b.bin"
    one.write_bytes(b"weights")
    other.write_bytes(b"weights")
    assert fingerprint(one) == fingerprint(other)
    before = fingerprint(tmp_path)
    other.write_bytes(b"weightz")
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(tmp_path) != before
    (tmp_path / "README.md").write_text("says nothing about weights")
    assert len(fingerprint(tmp_path)) == 12


def test_a_long_message_of_a_library_is_cut() -> None:
    with pytest.raises(TeacherError) as caught, loading("model 'x'", "timm:<folder>"):
        raise RuntimeError("size mismatch " + "x" * 100_000 + "\nsecond line")
    assert str(caught.value) == "model 'x': size mismatch " + "x" * (300 - len("size mismatch "))
