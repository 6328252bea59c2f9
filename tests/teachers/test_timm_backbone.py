from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import images, paint_quarter, save_timm

from chorus_core.teachers import TeacherError, grid_cells, load_teacher
from chorus_core.teachers.images import network_input
from chorus_core.teachers.timm_backbone import TimmTeacher

timm = pytest.importorskip("timm")

DINO = ("vit_small_patch16_dinov3_qkvb", {"depth": 2, "embed_dim": 48, "num_heads": 3})
PE = ("vit_pe_spatial_tiny_patch16_512", {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64})
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dinov3")
    save_timm(path, DINO[0], **DINO[1])
    return path


@pytest.fixture(scope="module")
def teacher(folder: Path) -> TimmTeacher:
    return load_teacher(f"timm:{folder}?size=64")


@pytest.mark.parametrize(
    ("architecture", "options", "head"), [(*DINO, "dino"), (*PE, "pe"), ("test_convnext", {}, "dino")]
)
def test_any_backbone_by_its_folder(tmp_path: Path, architecture: str, options: dict, head: str) -> None:
    model = save_timm(tmp_path / "model", architecture, **options)
    teacher = load_teacher(f"timm:{tmp_path / 'model'}?size=96")
    assert list(teacher.heads) == [head]
    picture = images(2, 70, 130)
    grid = teacher.maps(picture)[head]
    height, width = teacher.input_size(70, 130)
    step = 32 if "convnext" in architecture else 16
    assert (height, width) == (96, round(96 * 130 / 70 / step) * step)
    assert grid.shape == (2, height // step, width // step, teacher.heads[head])
    tables = teacher.tables(picture)[head]
    assert torch.equal(tables[1].table, grid[1].flatten(0, 1))
    assert torch.equal(tables[1].cells, grid_cells(70, 130, *grid.shape[1:3]))
    assert model.pretrained_cfg["architecture"] == architecture


def test_features_are_the_patch_tokens_of_forward_features(folder: Path, teacher: TimmTeacher) -> None:
    """Against timm's other way to them: all tokens after the final norm, class and registers cut off."""
    reference = timm.create_model(f"local-dir:{folder}", pretrained=True, dynamic_img_size=True).eval()
    picture = images(2, 64, 96)
    x = network_input(picture, (64, 96), MEAN, STD, torch.device("cpu"))
    with torch.no_grad():
        tokens = reference.forward_features(x)[:, reference.num_prefix_tokens :]
    assert reference.num_prefix_tokens == 5  # class and four registers
    torch.testing.assert_close(teacher.maps(picture)["dino"], tokens.view(2, 4, 6, -1), atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(9, 200), st.integers(9, 200))
def test_any_image_size_is_brought_to_whole_patches(teacher: TimmTeacher, height: int, width: int) -> None:
    rows, columns = teacher.input_size(height, width)
    assert rows % 16 == columns % 16 == 0
    assert min(rows, columns) == 64
    assert abs(columns / rows - width / height) <= 8 / 64 * max(1, width / height) + 1e-9


@settings(max_examples=8, deadline=None)
@given(st.integers(30, 120), st.integers(30, 120))
def test_cells_are_in_the_table(teacher: TimmTeacher, height: int, width: int) -> None:
    (found,) = teacher.tables(images(1, height, width))["dino"]
    assert found.cells.shape == (height, width)
    assert set(found.cells.unique().tolist()) <= set(range(len(found.table)))
    assert int(found.cells[-1, -1]) == len(found.table) - 1


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_grid_lies_as_the_image_does(tmp_path: Path, row: int, column: int) -> None:
    save_timm(tmp_path / "local", "test_convnext")
    teacher = load_teacher(f"timm:{tmp_path / 'local'}?size=128")
    grey = torch.full((1, 96, 192, 3), 128, dtype=torch.uint8)
    change = (teacher.maps(paint_quarter(grey, row, column))["dino"] - teacher.maps(grey)["dino"])[0].norm(dim=-1)
    rows, columns = change.shape
    quarters = change.view(2, rows // 2, 2, columns // 2).mean(dim=(1, 3))
    assert int(quarters.argmax()) == 2 * row + column


def test_deterministic(teacher: TimmTeacher) -> None:
    picture = images(2)
    assert torch.equal(teacher.maps(picture)["dino"], teacher.maps(picture)["dino"])


def test_a_checkpoint_file_with_an_architecture(tmp_path: Path) -> None:
    model = save_timm(tmp_path / "model", "test_vit")
    file = tmp_path / "weights.pth"
    torch.save(model.state_dict(), file)
    one = load_teacher(f"timm:test_vit:{file}?size=64&head=pe")
    other = load_teacher(f"timm:test_vit:{tmp_path / 'model' / 'model.safetensors'}?size=64&head=pe")
    assert torch.equal(one.maps(images())["pe"], other.maps(images())["pe"])
    assert one.name != other.name
    assert "weights.pth#" in one.name


def test_a_model_of_one_input_size_gets_it(tmp_path: Path) -> None:
    model = save_timm(tmp_path / "model", "vit_tiny_patch16_224", depth=1, embed_dim=48, num_heads=3)
    teacher = TimmTeacher(model, "fixed", "dino")
    assert teacher.input_size(30, 90) == (224, 224)
    assert teacher.maps(images(1, 30, 90))["dino"].shape[1:3] == (14, 14)
    assert teacher.name == "fixed@224x224"


def test_the_default_size_is_that_of_the_model_but_never_coarse(folder: Path) -> None:
    assert load_teacher(f"timm:{folder}").input_size(480, 640) == (448, 592)


def test_names_tell_weights_and_sizes_apart(folder: Path, tmp_path: Path) -> None:
    names = {load_teacher(f"timm:{folder}?size={size}").name for size in (64, 128)}
    copied = shutil.copytree(folder, tmp_path / folder.name)
    assert load_teacher(f"timm:{copied}?size=64").name in names
    assert len(names) == 2


def test_never_random_weights(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    with pytest.raises(TeacherError, match="timm model"):
        load_teacher(f"timm:{bare}")
    with pytest.raises(TeacherError, match="vit_no_such"):
        load_teacher("timm:vit_no_such")
    with pytest.raises(TeacherError, match=r"missing\.pth: no such file"):
        load_teacher(f"timm:test_vit:{tmp_path / 'missing.pth'}")


def test_the_teachers_of_the_paper_are_names_that_timm_knows() -> None:
    for name in ("vit_large_patch16_dinov3.lvd1689m", "vit_pe_spatial_large_patch14_448.fb"):
        assert timm.get_pretrained_cfg(name, allow_unregistered=False).hf_hub_id == f"timm/{name}"
