"""Files of features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chorus_core.io.feature_file import FeatureFileError, load_features, save_features


def test_features_come_back_with_how_they_were_made(tmp_path: Path) -> None:
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    kept = torch.arange(7) % 3 > 0
    facts = {"model": "chorus_mini", "head": "lang", "grid_size": 0.02}
    save_features(tmp_path / "f.safetensors", features, kept, facts)
    found, found_kept, found_facts = load_features(tmp_path / "f.safetensors")
    assert found.dtype == torch.float16
    assert torch.equal(found, features.half())
    assert torch.equal(found_kept, kept)
    assert found_facts == facts


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    save_file({"weight": torch.zeros(3)}, tmp_path / "b.safetensors")
    meta = {"chorus": "{}"}
    save_file(
        {"features": torch.zeros(3, 2), "kept": torch.ones(2, dtype=torch.bool)}, tmp_path / "c.safetensors", meta
    )
    rows = torch.ones(3, dtype=torch.bool)
    save_file({"features": torch.zeros(3, 2, dtype=torch.int16), "kept": rows}, tmp_path / "d.safetensors", meta)
    save_file({"features": torch.zeros(3, 2).half(), "kept": rows}, tmp_path / "e.safetensors", {"chorus": "[]"})
    for name in ("a", "b", "c", "d", "e"):
        with pytest.raises(FeatureFileError, match=f"{name}.safetensors: "):
            load_features(tmp_path / f"{name}.safetensors")
