"""``.splat`` files: what viewers write comes back, and what is no such file is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_core.io.splat_file import RECORD, SplatFormatError, load_splat


def make_records(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Records as a viewer writes them, and the unit quaternions before they were rounded to bytes."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    records = np.zeros(count, RECORD)
    records["mean"], records["scale"] = rng.normal(size=(count, 3)), rng.uniform(0, 0.1, (count, 3))
    records["rgba"] = rng.integers(0, 256, (count, 4))
    records["rotation"] = np.clip(np.rint(quats * 128 + 128), 0, 255)
    return records, quats


def test_a_record_is_32_bytes() -> None:
    assert RECORD.itemsize == 32


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.integers(0, 2**31))
def test_what_was_written_comes_back(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
    records, quats = make_records(count, seed)
    path = tmp_path_factory.mktemp("splat") / "scene.splat"
    path.write_bytes(records.tobytes())
    g = load_splat(path)
    assert len(g) == count
    assert np.array_equal(g.means.numpy(), records["mean"])
    assert np.array_equal(g.scales.numpy(), records["scale"])
    assert np.allclose(g.colors.numpy() * 255, records["rgba"][:, :3], atol=1e-4)
    assert np.allclose(g.opacities.numpy() * 255, records["rgba"][:, 3], atol=1e-4)
    assert torch.allclose(g.quats.norm(dim=1), torch.ones(count), atol=1e-6)
    cosine = np.abs((g.quats.numpy() * quats).sum(axis=1))
    assert (cosine > np.cos(0.02)).all(), "within the rounding to bytes"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mean", np.nan, "1 with a position that is not finite"),
        ("scale", -1.0, "1 with a scale below 0"),
        ("rotation", 128, "1 with a rotation of zeros"),
    ],
)
def test_what_is_no_gaussian_is_named(field: str, value: float, message: str, tmp_path: Path) -> None:
    records, _ = make_records(3, 0)
    records[field][1] = value
    (tmp_path / "scene.splat").write_bytes(records.tobytes())
    with pytest.raises(SplatFormatError, match=f"scene.splat: 1 of 3 rows are no Gaussians .{message}"):
        load_splat(tmp_path / "scene.splat")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scene.splat").write_bytes(make_records(2, 0)[0].tobytes()[:-1])
    with pytest.raises(SplatFormatError, match="has 63 bytes: expected a multiple of 32"):
        load_splat(tmp_path / "scene.splat")
