"""Weights by name: through the hub's own client, against a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import torch
from local_hub import serve_hub

from chorus_core.encoder import CheckpointError, ChorusEncoder, ChorusModel, ModelConfig, read_model
from chorus_core.encoder.hub import HubError, fetch_weights, is_hub_name
from chorus_core.gaussians import Gaussians
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/weights"


class Hub(BaseHTTPRequestHandler):
    """The routes that a download takes: what a revision holds, as older and newer clients ask, and a file of it.

    ``files`` are paths by name.
    """

    files: dict[str, Path]
    refusal: tuple[int, str] | None
    served: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        if self.refusal is not None:
            status, code = self.refusal
            self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": "refused"}, body)
        elif self.path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            listing = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            self._send(200, json.dumps(listing).encode(), {}, body)
        elif self.path.startswith(f"/api/models/{REPOSITORY}/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid(path)}
                for name, path in self.files.items()
            ]
            self._send(200, json.dumps(tree).encode(), {}, body)
        elif self.path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            name = self.path.partition(f"{COMMIT}/")[2]
            path = self.files[name]
            self._send(200, path.read_bytes(), {"ETag": f'"{oid(path)}"', "X-Repo-Commit": COMMIT}, body)
            if body:
                self.served.append(name)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such thing"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def oid(path: Path) -> str:
    """What git calls a file of these contents."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub with nothing on it yet."""
    handler = type("OneHub", (Hub,), {"files": {}, "refusal": None, "served": []})
    with serve_hub(handler, tmp_path / "cache", monkeypatch):
        yield handler


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_names_of_the_hub_are_told_from_paths() -> None:
    assert is_hub_name("SceneSplatPro/Chorus:lang-dino-enc-pretrain-scan-ppv2-mp3d-mcmc")
    assert is_hub_name("a/b:folder/file.pth")
    assert is_hub_name("a/b:.hidden/v1..2.pth")
    outside = ("a/b:../../etc", "a/b:..", "a/b:c/../d.pth", "a/b:./c", "a/b:c/..")
    for other in ("chorus_mini", "models/mine", "a/b/c:d", "a/b:", "/a/b:c", "a/b:c d", *outside):
        assert not is_hub_name(other), other
    with pytest.raises(HubError, match="expected OWNER/REPOSITORY:NAME"):
        fetch_weights("chorus_mini")


@pytest.mark.parametrize("file", ["net.pth", "net.safetensors", "net/model_best.pth"])
def test_only_the_weights_asked_for_are_fetched(file: str, hub: type[Hub], tmp_path: Path) -> None:
    others = ("README.md", "net2.pth", "other/model.pth", "net/config.json", "network.pth")
    hub.files |= {name: write(tmp_path / f"{k}.txt", name) for k, name in enumerate((file, *others))}
    path = fetch_weights(f"{REPOSITORY}:net")
    assert path.read_text() == file
    assert hub.served == [file]
    assert fetch_weights(f"{REPOSITORY}:{file}") == path
    assert hub.served == [file], "from the cache the second time"


def test_what_was_fetched_serves_without_a_connection(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hub.files |= {"net.pth": write(tmp_path / "w.txt", "weights")}
    path = fetch_weights(f"{REPOSITORY}:net")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_weights(f"{REPOSITORY}:net") == path


def test_several_and_none_are_named(hub: type[Hub], tmp_path: Path) -> None:
    both = ("net/a.pth", "net/b.safetensors")
    hub.files |= {name: write(tmp_path / f"{k}.txt", name) for k, name in enumerate(both)}
    with pytest.raises(HubError, match=f"choose one: {REPOSITORY}:net/a.pth, {REPOSITORY}:net/b.safetensors"):
        fetch_weights(f"{REPOSITORY}:net")
    with pytest.raises(HubError, match="has no such file, nor folder with one"):
        fetch_weights(f"{REPOSITORY}:missing")


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((403, "GatedRepo"), ("is gated: ask for access", "hf auth login", "encoder.checkpoint: FILE")),
        ((404, "RepoNotFound"), ("no such repository", "check the name")),
    ],
)
def test_a_refusal_says_what_to_do(refusal: tuple[int, str], words: tuple[str, ...], hub: type[Hub]) -> None:
    hub.refusal = refusal
    with pytest.raises(CheckpointError) as caught:
        read_model(f"{REPOSITORY}:net")
    for word in (f"{REPOSITORY}:net", *words):
        assert word in str(caught.value)


def test_without_a_connection_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="hub cannot be reached") as caught:
        read_model(f"{REPOSITORY}:net")
    assert str(tmp_path / "cache") in str(caught.value)
    assert f"hf download {REPOSITORY}" in str(caught.value)


class Words:
    """A text encoder of the release's width that remembers what it was asked."""

    name, dim = "words", 1152

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> torch.Tensor:
        self.asked += texts
        rows = [torch.randn(self.dim, generator=torch.Generator().manual_seed(len(t))) for t in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def test_a_file_of_the_releases_form_from_name_to_labels(hub: type[Hub], tmp_path: Path) -> None:
    """Its full size with random weights: 131.3 M parameters, as ``module.*`` under ``state_dict``."""
    torch.manual_seed(0)
    released = ChorusModel(ModelConfig(heads={"lang": 1152, "dino": 1024}))
    assert sum(p.numel() for p in released.parameters()) == 131_344_304
    state = {f"module.{key}": value.half() for key, value in released.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 100}, tmp_path / "release.pth")
    hub.files |= {"lang-dino/model_best.pth": tmp_path / "release.pth"}
    encoder = ChorusEncoder.from_pretrained(f"{REPOSITORY}:lang-dino")
    assert dict(encoder.model.config.heads) == {"lang": 1152, "dino": 1024}
    assert encoder.description["sha256"] == hashlib.sha256((tmp_path / "release.pth").read_bytes()).hexdigest()
    assert encoder.description["text"]["encoder"] == "open_clip:ViT-SO400M-16-SigLIP2-512:webli"
    rng = torch.Generator().manual_seed(1)
    points, quats = torch.rand(400, 3, generator=rng), torch.tensor((1.0, 0.0, 0.0, 0.0)).repeat(400, 1)
    scene = Gaussians(points, quats, torch.full((400, 3), 0.02), torch.ones(400), points)
    features = encoder.encode(scene)
    assert features.shape == (400, 1152)
    assert torch.allclose(features.float().norm(dim=1), torch.ones(400), atol=2e-3)
    words = Words()
    side = TextSide(encoder.description, encoder.basis, words)
    words.asked.clear()
    side.embed_labels(Vocabulary(("mug", "chair")))
    assert words.asked == ["this is a mug", "this is a chair"]
