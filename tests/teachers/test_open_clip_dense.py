from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import clip_config, images, paint_quarter, save_open_clip, vit_config

from chorus_core.semantics.text_encoder import load_text_encoder
from chorus_core.teachers import TeacherError, grid_cells, load_teacher
from chorus_core.teachers.images import network_input
from chorus_core.teachers.open_clip_dense import DenseOpenClipTeacher, dense_path
from chorus_core.teachers.open_clip_tower import ImageTower, load_image_tower

open_clip = pytest.importorskip("open_clip")

KINDS = ["class token", "average", "coca", "resnet", "map", "timm token", "timm average", "convolutional"]


def config_of(kind: str, image: int) -> dict:
    if kind == "class token":
        return vit_config(image)
    if kind == "average":
        return vit_config(image, pool_type="avg")
    if kind == "coca":
        return vit_config(image, attentional_pool=True, attn_pooler_queries=3, attn_pooler_heads=2)
    if kind == "resnet":
        return clip_config({"image_size": image, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None})
    raise ValueError(kind)


def visual_of(kind: str, image: int) -> torch.nn.Module:
    """An image tower with random weights; the timm ones are tiny relatives that no open_clip configuration names."""
    from small_models import shake

    torch.manual_seed(0)
    if kind in ("class token", "average", "coca", "resnet"):
        model = open_clip.CLIP(**config_of(kind, image)).visual
    else:
        from open_clip.timm_model import TimmModel

        model = TimmModel("test_vit", 12, image_size=image, pool="token", proj="linear")
        if kind == "convolutional":
            model = TimmModel("test_convnext", 12, image_size=image, pool="avg", proj="linear")
        elif kind == "map":
            model.trunk = _tiny_vit(image, "map")
        elif kind == "timm average":
            model.trunk = _tiny_vit(image, "avg")
        else:
            model.trunk = _tiny_vit(image, "token")
    shake(model)
    return model.eval()


def _tiny_vit(image: int, pool: str) -> torch.nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        **{"img_size": image, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 0},
        **{"global_pool": pool, "class_token": pool == "token", "fc_norm": False},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_one_vector_a_cell_of_the_width_of_an_embedding(kind: str) -> None:
    visual = visual_of(kind, 64)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = visual(x)
        features = dense_path(visual)(x)
    side = 2 if kind in ("resnet", "convolutional") else 4
    assert features.shape == (2, side, side, pooled.shape[1])
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("kind", ["average", "map", "timm average", "convolutional"])
def test_an_image_of_one_cell_has_the_embedding_of_the_image(kind: str) -> None:
    """With one patch there is nothing to pool: dense and pooled features are the same vector."""
    side = 32 if kind == "convolutional" else 16
    visual = visual_of(kind, side)
    x = torch.randn(3, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(dense_path(visual)(x)[:, 0, 0], visual(x), atol=1e-5, rtol=1e-4)


def test_the_class_token_path_is_attention_with_the_identity() -> None:
    """Against the last block written out with an explicit attention matrix: the identity."""
    visual = visual_of("class token", 64)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = visual._embeds(x)
        first, last = visual.transformer.resblocks
        tokens = first(tokens)
        normed = last.ln_1(tokens)
        values = torch.nn.functional.linear(normed, last.attn.in_proj_weight[128:], last.attn.in_proj_bias[128:])
        tokens = tokens + last.attn.out_proj(torch.eye(17) @ values)
        tokens = tokens + last.mlp(last.ln_2(tokens))
        expected = (visual.ln_post(tokens) @ visual.proj)[:, 1:].view(2, 4, 4, 12)
        torch.testing.assert_close(dense_path(visual)(x), expected, atol=1e-5, rtol=1e-4)


def test_the_pooler_of_coca_is_its_value_path() -> None:
    """All of the pooler's queries on a single patch give what the dense path gives."""
    visual = visual_of("coca", 64)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = visual.transformer(visual._embeds(x))[:, 1:]
        alone = visual.attn_pool(tokens.reshape(16, 1, 64))  # [16, 3, 12]
        expected = visual.ln_post(alone[:, 0]) @ visual.proj
        torch.testing.assert_close(alone[:, 0], alone[:, 2], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(dense_path(visual)(x).view(16, 12), expected, atol=1e-5, rtol=1e-4)


def test_the_architecture_of_siglip_takes_the_map_path() -> None:
    import timm
    from open_clip.timm_model import TimmModel

    visual = TimmModel("test_vit", 12, 32, pool="token", proj="linear")
    options = {"depth": 1, "embed_dim": 48, "num_heads": 3}
    visual.trunk = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, global_pool="map", **options)
    visual.head = torch.nn.Sequential()
    visual.set_input_size((32, 48))
    with torch.no_grad():
        assert dense_path(visual.eval())(torch.randn(1, 3, 32, 48)).shape == (1, 2, 3, 48)


def test_a_tower_without_a_dense_path_says_so() -> None:
    with pytest.raises(TeacherError, match=r"Linear: has no dense path here; use open_clip-masks"):
        dense_path(torch.nn.Linear(2, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(tmp_path_factory.mktemp("clip"), vit_config())


@pytest.fixture(scope="module")
def teacher(folder: Path) -> DenseOpenClipTeacher:
    return load_teacher(f"open_clip:{folder}")


@settings(max_examples=15, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(1, 3))
def test_tables_agree_with_maps(teacher: DenseOpenClipTeacher, height: int, width: int, count: int) -> None:
    batch = images(count, height, width)
    grids, tables = teacher.maps(batch)["lang"], teacher.tables(batch)["lang"]
    assert grids.shape == (count, 4, 4, 12)
    assert len(tables) == count
    torch.testing.assert_close(grids.norm(dim=-1), torch.ones(count, 4, 4))
    for grid, found in zip(grids, tables, strict=True):
        assert found.cells.shape == (height, width)
        assert int(found.cells.min()) == 0
        assert int(found.cells.max()) == 15
        assert torch.equal(found.table, grid.reshape(16, 12))
        assert torch.equal(found.cells, grid_cells(height, width, 4, 4))


def test_the_same_image_gives_the_same_features_alone_or_in_a_batch(teacher: DenseOpenClipTeacher) -> None:
    batch = images(3)
    together, again = (teacher.maps(batch)["lang"] for _ in range(2))
    assert torch.equal(together, again)
    torch.testing.assert_close(teacher.maps(batch[1:2])["lang"], together[1:2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_grid_lies_as_the_image_does(row: int, column: int) -> None:
    """A convolutional tower is local: what changes in a quarter of the image changes most in that quarter."""
    visual = visual_of("convolutional", 128)
    tower = ImageTower(visual, "n", "t", (128, 128), (0.5,) * 3, (0.5,) * 3, 12, torch.device("cpu"))
    local = DenseOpenClipTeacher(tower)
    grey = torch.full((1, 96, 200, 3), 128, dtype=torch.uint8)
    change = (local.maps(paint_quarter(grey, row, column))["lang"] - local.maps(grey)["lang"])[0].norm(dim=-1)
    quarters = change.view(2, 2, 2, 2).mean(dim=(1, 3))
    assert int(quarters.argmax()) == 2 * row + column


def test_text_and_image_share_a_space(teacher: DenseOpenClipTeacher) -> None:
    assert load_text_encoder(teacher.text).dim == teacher.heads["lang"]


def test_preprocessing_is_that_of_open_clip(folder: Path) -> None:
    from PIL import Image

    tower = load_image_tower(str(folder))
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    picture = images(1, 100, 180)
    expected = transform(Image.fromarray(picture[0].numpy()))
    ours = network_input(picture, tower.size, tower.mean, tower.std, tower.device)[0]
    assert (ours - expected).abs().max() < 0.02  # PIL rounds to bytes: 1 / 255 / std


def test_another_input_size_gives_another_grid_and_another_name(folder: Path, teacher: DenseOpenClipTeacher) -> None:
    wide = load_teacher(f"open_clip:{folder}?size=48x96")
    assert wide.maps(images())["lang"].shape == (1, 3, 6, 12)
    assert wide.name != teacher.name


def test_the_name_follows_the_weights_not_the_place(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    moved = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, moved)
    assert load_teacher(f"open_clip:{moved}").name == load_teacher(f"open_clip:{folder}").name
    weights = load_file(moved / "open_clip_model.safetensors")
    save_file({**weights, "logit_scale": weights["logit_scale"] + 1}, moved / "open_clip_model.safetensors")
    assert load_teacher(f"open_clip:{moved}").name != load_teacher(f"open_clip:{folder}").name


@pytest.mark.parametrize("bad", [torch.zeros(1, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8)])
def test_images_of_another_form_are_refused(teacher: DenseOpenClipTeacher, bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[B, H, W, 3\]"):
        teacher.maps(bad)


def test_never_random_weights(tmp_path: Path) -> None:
    save_open_clip(tmp_path, vit_config())
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(TeacherError, match="open_clip model"):
        load_teacher(f"open_clip:{tmp_path}")
    with pytest.raises(TeacherError, match="no-such-tag"):
        load_teacher("open_clip:ViT-B-32:no-such-tag")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_as_on_the_cpu(folder: Path, teacher: DenseOpenClipTeacher) -> None:
    found = load_teacher(f"open_clip:{folder}", "cuda").maps(images(2))["lang"].cpu()
    assert torch.nn.functional.cosine_similarity(found, teacher.maps(images(2))["lang"], dim=-1).min() > 0.995
