"""Makes the textured plane importable, and a store of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode does not find it

from plane import POSES, pose, write_room

from training.teaching.view_store import ViewStore


@pytest.fixture
def store(tmp_path: Path) -> ViewStore:
    """Two rooms: the plane from two places, and from two others."""
    write_room(tmp_path, "train_000_00000")
    write_room(tmp_path, "train_000_00001", (POSES[0], pose(0.2, 0.2, 1.5, 0.1, -0.4)))
    found = ViewStore(tmp_path, "train", torch.device("cpu"))
    assert found.refresh(wait=True) == 2
    return found
