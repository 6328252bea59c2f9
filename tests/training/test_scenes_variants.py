"""Variants keep what makes a thing that thing: its shape up to a stretch, its cut-outs, its category."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("embreex")
pytest.importorskip("trimesh")

from training.scenes.assets import AssetLibrary, TexturedMesh
from training.scenes.layout import Model
from training.scenes.variants import STRETCH, variant

SIZE = (2.0, 0.9, 0.8)


@pytest.fixture
def library(tmp_path: Path) -> AssetLibrary:
    """Two models by name only, and one texture to cover furniture with."""
    (tmp_path / "textures").mkdir()
    cv2.imwrite(str(tmp_path / "textures" / "oak.png"), np.full((8, 8, 3), (20, 60, 120), np.uint8))
    (tmp_path / "textures.csv").write_text(
        "file,use,name,source_repo,suggested_tile_m,seam_ratio\noak.png,wood,oak,somewhere,1.0,1.0\n"
    )
    rows = [
        f"objects/{c}__1.glb,{c},{','.join(map(str, SIZE))},plain,-y,A,{place}"
        for c, place in (("sofa", "floor"), ("orange", "surface"), ("rug", "floor"))
    ]
    header = "file,category,size_x,size_y,size_z,style,front,tier,place"
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    return AssetLibrary(tmp_path)


def model(category: str) -> Model:
    """Two triangles over the model's box: one of an opaque red, one of a cut-out green."""
    low, high = np.array([-SIZE[0] / 2, -SIZE[1] / 2, 0.0]), np.array([SIZE[0] / 2, SIZE[1] / 2, SIZE[2]])
    triangles = np.array([[low, high, (low + high) / 2], [high, low, low]], np.float32)
    red = np.full((4, 4, 3), (200, 10, 10), np.uint8)
    green = np.full((4, 4, 4), (10, 200, 10, 128), np.uint8)
    mesh = TexturedMesh(triangles, np.zeros((2, 3, 2), np.float32), np.array([0, 1], np.int32), (red, green))
    return Model(f"{category}__1", category, SIZE, mesh)


def test_a_variant_is_stretched_and_its_size_says_so(library: AssetLibrary) -> None:
    original = model("sofa")
    sizes = []
    for seed in range(40):
        changed = variant(original, library, np.random.default_rng(seed))
        extent = np.ptp(changed.mesh.triangles.reshape(-1, 3), axis=0)
        assert extent == pytest.approx(changed.size, rel=1e-5)
        assert changed.mesh.triangles[..., 2].min() == 0.0, "it stands where it stood"
        assert (changed.object_id, changed.category) == (original.object_id, original.category)
        sizes.append(np.array(changed.size) / SIZE)
    assert np.abs(np.array(sizes) - 1).max() <= STRETCH + 1e-9
    assert np.std(sizes, axis=0).min() > 0.03
    assert np.array_equal(original.mesh.textures[0], model("sofa").mesh.textures[0]), "the original is left as it was"


def test_furniture_gets_other_finishes_and_keeps_its_cut_outs(library: AssetLibrary) -> None:
    original = model("sofa")
    colors = []
    for seed in range(60):
        opaque, cut_out = variant(original, library, np.random.default_rng(seed)).mesh.textures
        assert np.array_equal(cut_out, original.mesh.textures[1])
        colors.append(opaque.reshape(-1, 3).mean(axis=0))
    own = np.array([np.abs(c - (200, 10, 10)).max() < 1 for c in colors])
    assert 0.3 < own.mean() < 0.7
    assert any(np.abs(c - (120, 60, 20)).max() < 2 for c in colors), "covered with the library's wood"
    assert any(c.min() > 180 for c in colors), "painted white"


@pytest.mark.parametrize("category", ["orange", "rug"])
def test_what_its_texture_tells_keeps_it(library: AssetLibrary, category: str) -> None:
    original = model(category)
    for seed in range(20):
        changed = variant(original, library, np.random.default_rng(seed))
        assert all(a is b for a, b in zip(changed.mesh.textures, original.mesh.textures, strict=True))


def test_the_same_seed_gives_the_same_variant(library: AssetLibrary) -> None:
    a, b = (variant(model("sofa"), library, np.random.default_rng(5)) for _ in range(2))
    assert a.size == b.size
    assert np.array_equal(a.mesh.triangles, b.mesh.triangles)
    assert np.array_equal(a.mesh.textures[0], b.mesh.textures[0])
