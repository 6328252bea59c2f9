"""The embedded teacher on disk and behind the interface of all teachers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_core.teachers import embedded, load_teacher
from chorus_core.teachers.base import TeacherError
from chorus_core.teachers.embedded import (
    EmbeddedConfig,
    EmbeddedNet,
    EmbeddedTeacher,
    build_net,
    load_embedded,
    prepare_images,
    write_embedded,
)

SMALL = EmbeddedConfig(
    {"lang": 6, "gen": 4, "obj": 5}, stem=8, widths=(8, 12, 16, 16), depths=(1, 1, 1, 1), pyramid=16, hidden=16,
    height=48,
)  # fmt: skip


def images(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=rng, dtype=torch.uint8)


@pytest.fixture
def net() -> EmbeddedNet:
    """Random weights, with running statistics of its own."""
    torch.manual_seed(0)
    made = build_net(SMALL).train()
    with torch.no_grad():
        made(prepare_images(images(4, 48, 64), 48))
    return made.eval()


@pytest.fixture
def folder(net: EmbeddedNet, tmp_path: Path) -> Path:
    write_embedded(tmp_path / "teacher", net, {"name": "little", "steps": 3})
    return tmp_path / "teacher"


@pytest.mark.parametrize("spec", ["folder", "load_teacher"])
def test_it_comes_back(spec: str, folder: Path, net: EmbeddedNet) -> None:
    teacher = load_embedded(folder) if spec == "folder" else load_teacher(f"embedded:{folder}")
    assert teacher.name.startswith("little-")
    assert teacher.heads == {"lang": 6, "gen": 4, "obj": 5}
    assert teacher.text == "minilm"
    batch = images(2, 48, 64, seed=1)
    expected = EmbeddedTeacher(net, "same").maps(batch)
    for head, found in teacher.maps(batch).items():
        assert found.shape == (2, 12, 16, SMALL.heads[head])
        assert torch.allclose(found, expected[head], atol=2e-2), "weights are stored in half precision"
        assert torch.allclose(found.norm(dim=-1), torch.ones(2, 12, 16), atol=1e-5)
    again = load_embedded(folder)
    assert all(torch.equal(a, b) for a, b in zip(teacher.maps(batch).values(), again.maps(batch).values(), strict=True))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_the_name_changes_with_the_weights(folder: Path, net: EmbeddedNet, tmp_path: Path) -> None:
    """It is the key of the feature cache."""
    with torch.no_grad():
        net.merge[0].weight += 0.1
    write_embedded(tmp_path / "other", net, {"name": "little"})
    assert load_embedded(tmp_path / "other").name != load_embedded(folder).name


@pytest.mark.parametrize(("height", "width"), [(48, 64), (240, 320), (120, 213), (37, 90), (480, 640)])
def test_tables_agree_with_maps_at_any_size(folder: Path, height: int, width: int) -> None:
    """Each pixel's row of the table is the cell of the map that its centre lies in."""
    teacher = load_embedded(folder)
    batch = images(2, height, width)
    maps, tables = teacher.maps(batch), teacher.tables(batch)
    for head, grid in maps.items():
        rows, columns = grid.shape[1:3]
        assert rows == 12
        assert columns == pytest.approx(12 * width / height, abs=0.51)
        for k in range(2):
            table = tables[head][k]
            assert table.cells.shape == (height, width)
            for v, u in ((0, 0), (height - 1, width - 1), (height // 3, width // 2), (height // 2, 1)):
                cell = grid[k, int((v + 0.5) / height * rows), int((u + 0.5) / width * columns)]
                assert torch.equal(table.table[table.cells[v, u]], cell)


def test_images_are_brought_to_the_networks_size() -> None:
    """The same picture at another size, in [-1, 1]; its own size is left alone."""
    ramp = torch.from_numpy(np.tile(np.linspace(0, 255, 320), (240, 1)).astype(np.uint8))
    image = ramp[None, :, :, None].repeat(1, 1, 1, 3)
    same = prepare_images(image, 240)
    assert torch.equal(same[0, 1], ramp.float() / 127.5 - 1)
    small = prepare_images(image, 48)
    assert small.shape == (1, 3, 48, 64)
    centres = (torch.arange(64) + 0.5) * 5 - 0.5
    expected = centres / 319 * 2 - 1
    assert torch.allclose(small[0, 0, 20, 2:-2], expected[2:-2], atol=0.02)
    assert prepare_images(images(1, 101, 77), 48).shape[3] % 4 == 0


def test_a_damaged_file_is_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    weights.write_bytes(content)
    with pytest.raises(TeacherError, match=r"teacher: model\.safetensors has sha256"):
        load_embedded(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"nowhere.*config\.json"):
        load_embedded(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match=r"model\.safetensors"):
        load_embedded(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pyramid": 32}, r"teacher does not fit the model; wrong shapes: context\.bias is \(16,\), expected \(32,\)"),
        ({"heads": {"lang": 6}}, "unexpected keys: heads.gen.0.bias"),
        ({"unknown": 3}, "unknown"),
        ({"widths": [8]}, r"widths \(8,\), depths \(1, 1, 1, 1\): expected as many of both"),
        ({"widths": [8, 12, 16, 10**12]}, r"widths\[3\] = 1000000000000: expected a whole number from 1 to 4096"),
        ({"depths": [1, 1, 1, 10**9]}, r"depths\[3\] = 1000000000: expected a whole number from 1 to 64"),
        ({"pyramid": -16}, "pyramid = -16"),
        ({"hidden": True}, "hidden = True"),
        ({"stem": 8.0}, "stem = 8.0"),
        ({"height": float("nan")}, "height = nan"),
        ({"heads": {"lang": 10**12}}, r"heads\['lang'\] = 1000000000000"),
        ({"heads": [6, 4, 5]}, r"heads = \(6, 4, 5\): expected widths"),
        ({"class_half": 0}, "class_half = 0: expected a number from 1e-06"),
        ({"class_share": "all"}, "class_share = 'all'"),
        ({"text": None}, "text = None: expected the name of a text encoder"),
        ({"encoder": "resnet"}, "encoder 'resnet': expected residual or efficientnet_lite0"),
        ({"encoder": "efficientnet_lite0", "heads": {"gen": 4}}, "damaged or of another form: KeyError: 'lang'"),
        ({"widths": [4096] * 4, "depths": [16] * 4}, "does not fit the model"),
    ],
)
def test_another_architecture_is_refused_at_once(
    folder: Path, change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_the_meta_device(config: EmbeddedConfig) -> EmbeddedNet:
        assert torch.empty(0).device.type == "meta", "weights are made before they are known to fit"
        return build_net(config)

    monkeypatch.setattr(embedded, "build_net", on_the_meta_device)
    description = json.loads((folder / "config.json").read_text())
    description["teacher"].update(change)
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(TeacherError, match=message) as caught:
        load_embedded(folder)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged or of another form"),
        ("[]", "expected a mapping, got list"),
        ("[" * 100_000, "nested more than 64 levels deep"),
        ("{}", "expected an object with an object 'teacher'"),
        ('{"teacher": 3, "sha256": ""}', "expected an object with an object 'teacher'"),
        ('{"teacher": {}, "sha256": "", "name": 3}', "a text as 'name'"),
    ],
)
def test_a_bad_description_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(TeacherError, match=rf"config\.json: .*{message}"):
        load_embedded(folder)


def test_values_that_are_not_finite_are_refused(folder: Path, net: EmbeddedNet) -> None:
    with torch.no_grad():
        net.merge[0].weight[0, 0, 0, 0] = float("nan")
    write_embedded(folder, net, {"name": "little"})
    with pytest.raises(TeacherError, match=r"model\.safetensors: 'merge\.0\.weight' has values that are not finite"):
        load_embedded(folder)
