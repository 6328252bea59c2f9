"""Scene folders: round trip, foreign ones, broken ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus_core.gaussians import Gaussians
from chorus_core.io.scene_folder import SceneFolderError, load_scene, save_scene


def random_gaussians(count: int) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1)
    unit = torch.rand(count, 7, generator=generator)
    return Gaussians(
        torch.randn(count, 3, generator=generator), quats, unit[:, :3], unit[:, 3], (unit[:, 4:] * 255).round() / 255
    )


@pytest.mark.parametrize("count", [0, 1, 100])
def test_round_trip(tmp_path, count):
    before = random_gaussians(count)
    labels = {"segment": np.arange(count) - 1, "normal": np.ones((count, 3), np.float32), "feat": np.zeros((count, 8))}
    save_scene(tmp_path / "scene", before, **labels)
    after, read = load_scene(tmp_path / "scene")
    for name in ("means", "quats", "scales", "opacities", "colors"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=1e-7)
    assert sorted(read) == sorted(labels)
    for name, values in labels.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
    assert {p.name for p in (tmp_path / "scene").iterdir()} == {
        *(f"{n}.npy" for n in ("coord", "color", "opacity", "quat", "scale")),
        *(f"{n}.npy" for n in labels),
    }


def test_labels_of_an_earlier_save_do_not_stay(tmp_path):
    save_scene(tmp_path, random_gaussians(5), segment=np.zeros(5, int))
    save_scene(tmp_path, random_gaussians(6))
    assert load_scene(tmp_path)[1] == {}


def test_large_labels_are_memory_mapped_and_writable(tmp_path):
    count = 40_000
    save_scene(tmp_path, random_gaussians(count), lang_feat=np.zeros((count, 128), np.float32))
    features = load_scene(tmp_path)[1]["lang_feat"]
    assert isinstance(features, np.memmap)
    features[0, 0] = 1
    assert load_scene(tmp_path)[1]["lang_feat"][0, 0] == 0


def test_foreign_half_precision_and_column_opacity(tmp_path):
    g = random_gaussians(10)
    save_scene(tmp_path, g)
    np.save(tmp_path / "coord.npy", g.means.numpy().astype(np.float16))
    np.save(tmp_path / "opacity.npy", g.opacities.numpy()[:, None].astype(np.float64))
    np.save(tmp_path / "quat.npy", 3 * g.quats.numpy())
    np.save(tmp_path / "index.npy", np.arange(3))
    after, labels = load_scene(tmp_path)
    assert after.means.dtype == torch.float32 and labels == {}
    torch.testing.assert_close(after.quats, g.quats)
    torch.testing.assert_close(after.opacities, g.opacities)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("coord", np.zeros((10, 2)), r"coord.npy is float64 \(10, 2\): expected numbers \(10, 3\)"),
        ("scale", np.zeros((9, 3)), r"scale.npy .*\(9, 3\): expected numbers \(10, 3\)"),
        ("scale", np.full((10, 3), -4.0), "scale.npy has -4: .*after the exponential"),
        ("opacity", np.full(10, 3.0), r"opacity.npy spans 3..3: expected \[0, 1\]"),
        ("opacity", np.full(10, np.nan), "10 of 10 rows are no Gaussians .10 with an opacity not in"),
        ("color", np.zeros((10, 3), np.float32), "color.npy is float32: expected uint8"),
        ("quat", np.zeros((10, 4)), "10 with a rotation of zeros"),
        ("coord", np.array(["a"] * 10), "coord.npy is <U1"),
        ("segment", np.zeros(4, int), r"segment.npy has shape \(4,\): expected \(10, ...\)"),
    ],
)
def test_broken_arrays_are_named(tmp_path, name, values, message):
    save_scene(tmp_path, random_gaussians(10))
    np.save(tmp_path / f"{name}.npy", values)
    with pytest.raises(SceneFolderError, match=message):
        load_scene(tmp_path)


def test_broken_files_are_named(tmp_path):
    with pytest.raises(SceneFolderError, match=r"no coord.npy, color.npy, opacity.npy, quat.npy, scale.npy"):
        load_scene(tmp_path)
    save_scene(tmp_path, random_gaussians(3))
    (tmp_path / "quat.npy").write_bytes(b"garbage")
    with pytest.raises(SceneFolderError, match=r"quat\.npy: damaged or of another form"):
        load_scene(tmp_path)
    np.save(tmp_path / "quat.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SceneFolderError, match=r"quat\.npy: damaged or of another form"):
        load_scene(tmp_path)


def test_bad_labels_and_gaussians_are_not_written(tmp_path):
    g = random_gaussians(3)
    for labels, message in (
        ({"coord": np.zeros(3)}, "taken"),
        ({"segment": np.zeros(2)}, r"expected numbers \(3"),
        ({"segment": np.array([None] * 3)}, "object"),
    ):
        with pytest.raises(SceneFolderError, match=message):
            save_scene(tmp_path / "scene", g, **labels)
    g.scales[0, 0] = float("inf")
    with pytest.raises(SceneFolderError, match=r"Gaussians.scales"):
        save_scene(tmp_path / "scene", g)
    assert not (tmp_path / "scene").exists()
