from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from hashed_encoder import DIM, HashedEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chorus_core.semantics.calibration import Calibration
from chorus_core.semantics.relevancy import NEGATIVES, REFERENCE, FeatureBasis, classify
from chorus_core.semantics.text_side import DEFAULT_THRESHOLD, TextSide, TextSideError
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels, load_vocabulary


def units(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, DIM, generator=generator), dim=-1)


def full_rotation() -> dict[str, Tensor]:
    return {"basis": FeatureBasis.fit(units(200), DIM).basis}


def test_plain_checkpoint_is_lerf_with_identity_basis() -> None:
    side, features = TextSide({}, {}, HashedEncoder()), units(50).half()
    assert (side.dim, side.head, side.threshold, side.calibration) == (DIM, "lang", DEFAULT_THRESHOLD, None)
    assert torch.equal(side.project_features(features), features)
    text, negatives = HashedEncoder().encode(["a chair"])[0], HashedEncoder().encode(NEGATIVES)
    f = features.float()
    pairs = 1 / (1 + torch.exp(10 * (f @ negatives.T - (f @ text)[:, None])))
    torch.testing.assert_close(side.relevancy(features, "a chair"), pairs.amin(1), atol=1e-5, rtol=0)


def test_calibrated_score_is_the_stated_logistic() -> None:
    calibration = Calibration(20.0, -3.0, contrast=0.4, commonness=0.7)
    side = TextSide({"calibration": asdict(calibration), "threshold": 0.3}, {}, HashedEncoder())
    encoder, f = HashedEncoder(), units(50)
    text = encoder.encode(["vase"])[0]
    common = (encoder.encode(load_vocabulary(REFERENCE).labels) @ text).mean()
    margin = f @ text - 0.4 * (f @ encoder.encode(NEGATIVES).T).amax(1) - 0.7 * common
    expected = torch.sigmoid(20 * margin - 3)
    assert side.threshold == 0.3
    torch.testing.assert_close(side.relevancy(f, "vase"), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(side.relevancy(f, side.embed_query("vase")), expected, atol=1e-5, rtol=0)


def test_a_rotation_changes_nothing() -> None:
    plain, rotated = TextSide({}, {}, HashedEncoder()), TextSide({}, full_rotation(), HashedEncoder())
    features = units(80, seed=1)
    vocabulary = Vocabulary(("chair", "table", "lamp"))
    a = classify(plain.project_features(features), plain.embed_labels(vocabulary))
    b = classify(rotated.project_features(features), rotated.embed_labels(vocabulary))
    agreement = (a[0] == b[0]).float().mean()
    assert agreement > 0.95  # fp16 may flip what is close to a tie
    torch.testing.assert_close(a[1], b[1], atol=0.05, rtol=0)
    first, second = (s.relevancy(s.project_features(features), "lamp") for s in (plain, rotated))
    torch.testing.assert_close(first, second, atol=0.01, rtol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, DIM))
def test_projection_is_the_basis(seed: int, dim: int) -> None:
    basis = FeatureBasis.fit(units(60, seed), dim)
    side = TextSide({}, {"basis": basis.basis}, HashedEncoder())
    features = units(10, seed + 1)
    projected = side.project_features(features.half())
    assert projected.dtype == torch.float16 and projected.shape == (10, dim) == (10, side.dim)
    torch.testing.assert_close(projected.float(), features.half().float() @ basis.basis, atol=2e-3, rtol=0)
    labels = Vocabulary(("chair", "table"))
    expected = encode_labels(labels, HashedEncoder()) @ basis.basis
    torch.testing.assert_close(side.embed_labels(labels), expected, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000))
def test_negatives_of_the_asker_only_lower(seed: int) -> None:
    side, features = TextSide({}, {}, HashedEncoder()), units(40, seed)
    free, vetoed = side.relevancy(features, "sofa"), side.relevancy(features, "sofa", ["armchair", "bench"])
    assert (vetoed <= free + 1e-6).all()
    text, others = HashedEncoder().encode(["sofa"])[0], HashedEncoder().encode(["armchair", "bench"])
    wins = features @ text > (features @ others.T).amax(1) + 1e-5
    torch.testing.assert_close(vetoed[wins], free[wins])


def test_a_feature_of_the_negative_itself_is_vetoed() -> None:
    side, feature = TextSide({}, {}, HashedEncoder()), HashedEncoder().encode(["armchair"])
    assert side.relevancy(feature, "sofa", ["armchair"])[0] < 0.5 * side.relevancy(feature, "sofa")[0]


def test_no_features() -> None:
    side = TextSide({}, full_rotation(), HashedEncoder())
    empty = side.project_features(torch.zeros(0, DIM))
    assert empty.shape == (0, DIM) and side.relevancy(empty, "chair", ["table"]).shape == (0,)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"text": {"prompts": "this is a {label}"}}, "text.prompts = 'this is a {label}': expected texts"),
        ({"text": {"prompts": []}}, "text.prompts"),
        ({"text": {"prompts": ["a {label}", "a chair"]}}, "text.prompts"),
        ({"threshold": 1.0}, "threshold = 1.0"),
        ({"threshold": "high"}, "threshold = 'high'"),
        ({"threshold": True}, "threshold = True"),
        ({"threshold": float("nan")}, "threshold = nan"),
        ({"calibration": {"scale": 1.0}}, "calibration has"),
        ({"calibration": {"scale": 1.0, "offset": 0.0, "slope": 2.0}}, "slope"),
        ({"calibration": {"scale": -1.0, "offset": 0.0}}, "scale > 0"),
        ({"calibration": {"scale": None, "offset": 0.0}}, "calibration"),
        ({"calibration": [1, 2]}, "calibration = "),
        ({"calibration": {"scale": "13", "offset": 0.0}}, "calibration: scale = '13': expected a number"),
        ({"calibration": {"scale": True, "offset": 0.0}}, "calibration: scale = True: expected a number"),
        ({"calibration": {"scale": 1.0, "offset": float("nan")}}, "calibration: offset = nan: expected a number"),
        (
            {"calibration": {"scale": 1e300, "offset": 0.0}},
            r"scale = 1e\+300: expected .* to 1e\+06",
        ),
        ({"calibration": {"scale": 10**400, "offset": 0.0}}, "calibration: scale = 1000"),
        ({"text": {"head": 3}}, "text.head = 3: expected a name"),
        ({"text": {"head": ["lang"]}}, r"text.head = \['lang'\]: expected a name"),
        ({"text": {"prompts": {"{label}": 1}}}, "text.prompts = {'{label}': 1}: expected texts"),
        ({"text": {"prompts": [1, "{label}"]}}, "text.prompts"),
        ({"text": {"prompts": None}}, "text.prompts = None"),
        ({"threshold": None}, "threshold = None"),
        ({"threshold": 10**400}, "threshold = 1000"),
        ({"text": "minilm"}, "text = 'minilm'"),
    ],
)
def test_bad_description(description: dict[str, Any], message: str) -> None:
    with pytest.raises(TextSideError, match=message) as caught:
        TextSide(description, {}, HashedEncoder())
    assert str(caught.value).startswith("model description: ") and len(str(caught.value)) < 250


@pytest.mark.parametrize("encoder", [3, None, "", ["minilm"]])
def test_an_encoder_of_no_name(encoder: object) -> None:
    with pytest.raises(TextSideError, match=r"model description: text\.encoder = .*: expected a name"):
        TextSide({"text": {"encoder": encoder}})


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        ({"mean": torch.zeros(DIM)}, "'mean'"),
        ({"basis": torch.zeros(DIM + 1, 4)}, r"shape \(25, 4\)"),
        ({"basis": torch.zeros(DIM)}, "shape"),
        ({"basis": torch.full((DIM, 4), float("nan"))}, "non-finite"),
    ],
)
def test_bad_basis(basis: dict[str, Tensor], message: str) -> None:
    with pytest.raises(TextSideError, match=message):
        TextSide({}, basis, HashedEncoder())


def test_features_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 7\)"):
        TextSide({}, {}, HashedEncoder()).project_features(torch.zeros(3, 7))


def test_names_its_encoder() -> None:
    side = TextSide({"text": {"encoder": "minilm", "head": "lang"}})
    assert side.encoder.name == "minilm" and side.dim == 384
    chair = side.project_features(side.encoder.encode(["chair", "the floor of a room"]))
    assert side.relevancy(chair, "something to sit on").diff() < 0
