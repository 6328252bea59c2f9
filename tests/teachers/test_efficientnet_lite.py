"""EfficientNet-Lite0 against timm's, and the teacher that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from chorus_core.io.errors import ReadError
from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from chorus_core.teachers.efficientnet_lite import WIDTHS, EfficientNetLite0
from chorus_core.teachers.embedded import EmbeddedConfig, load_embedded
from training.teaching import start
from training.teaching.class_names import class_names, class_texts, common_names


@pytest.mark.parametrize("size", [(224, 224), (240, 320), (213, 317)])
def test_it_is_timms(size: tuple[int, int]) -> None:
    """Parameters come in the same order, under other names."""
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    mine = EfficientNetLite0().eval()
    values = theirs.state_dict().values()
    mine.load_state_dict(dict(zip(mine.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        expected, found = theirs(images), mine(images)
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
        for stage, width, stride in zip(mine.features(images), WIDTHS, (4, 8, 16, 32), strict=True):
            assert stage.shape == (2, width, -(-size[0] // stride), -(-size[1] // stride))


def test_a_class_lies_near_its_words() -> None:
    encoder = load_text_encoder("minilm")
    texts = class_texts(encoder)
    assert texts.shape == (1000, 384) and float(texts.mean(dim=0).norm()) < 1e-5
    words = ("bed", "dog", "refrigerator", "bottle")
    like = texts @ encode_labels(Vocabulary(words), encoder).T
    first = [names[0] for names, _ in class_names()]
    for name, word in (
        ("four-poster", "bed"),
        ("beagle", "dog"),
        ("refrigerator", "refrigerator"),
        ("pop bottle", "bottle"),
    ):
        assert words[int(like[first.index(name)].argmax())] == word


def test_common_names_are_those_of_classes() -> None:
    assert common_names({"x": ["B", "0-1"], "y": [2]}, ["a", "b", "c"]) == [["x"], ["x", "x"], ["y"]]
    for entry in ("d", "3", "1-5"):
        with pytest.raises(ValueError, match="is no class"):
            common_names({"x": [entry]}, ["a", "b", "c"])


def test_the_command_makes_a_teacher(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(EfficientNetLite0().state_dict(), tmp_path / "lite.pth")
    start.main(["--weights", str(tmp_path / "lite.pth"), "--out", str(tmp_path / "made"), "--height", "240"])
    teacher = load_embedded(tmp_path / "made")
    maps = teacher.maps(torch.randint(0, 256, (1, 240, 320, 3), dtype=torch.uint8))
    assert {head: tuple(m.shape) for head, m in maps.items()} == {
        "lang": (1, 60, 80, 384), "gen": (1, 60, 80, 64), "obj": (1, 60, 80, 64),
    }  # fmt: skip
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no weights")
    with pytest.raises(ReadError, match=r"bad\.pth: damaged or of another form"):
        start.main(["--weights", str(bad), "--out", str(tmp_path / "none")])
    torch.save({"fc.weight": torch.zeros(1000, 1280)}, bad)
    with pytest.raises(ReadError, match=r"bad\.pth does not fit the model; .*unexpected keys: fc\.weight$"):
        start.main(["--weights", str(bad), "--out", str(tmp_path / "none")])


@pytest.mark.parametrize("values", [{"encoder": "other"}, {"class_share": 0.5}, {"class_share": 2.0}])
def test_unfit_configurations(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EmbeddedConfig.from_dict(values)
