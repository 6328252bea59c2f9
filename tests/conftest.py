"""Shared fixtures. Data that is not part of the repository is optional: what needs it skips and says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import chorus_core  # noqa: F401 - before torch: sets how OpenMP threads wait

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with development data (CHORUS_SHARED, else ``../shared``); skips where there is none."""
    folder = Path(os.environ.get("CHORUS_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}")
    return folder
