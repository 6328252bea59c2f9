"""A small sentence-transformers folder with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors


def write_sentence_encoder(folder: Path) -> None:
    """The files of a sentence-transformers folder that are read, of a BERT with two layers of 8 channels."""
    words = {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "a": 3, "chair": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {"vocab_size": 8, "hidden_size": 8, "max_position_embeddings": 16, "type_vocab_size": 2}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    (folder / "config.json").write_text(json.dumps({**sizes, "hidden_act": "gelu", "layer_norm_eps": 1e-12}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}')
    square, wide = (8, 8), (16, 8)
    shapes: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}_embeddings.weight": (rows, 8)
        for name, rows in (("word", 8), ("position", 16), ("token_type", 2))
    }
    linear = [("attention.output.dense", square), ("intermediate.dense", wide), ("output.dense", wide[::-1])]
    linear += [(f"attention.self.{name}", square) for name in ("query", "key", "value")]
    norms = ["embeddings.LayerNorm"]
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        shapes |= {f"{layer}.{name}.weight": shape for name, shape in linear}
        shapes |= {f"{layer}.{name}.bias": shape[:1] for name, shape in linear}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    shapes |= {f"{name}.{kind}": (8,) for name in norms for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(state, folder / "model.safetensors")
