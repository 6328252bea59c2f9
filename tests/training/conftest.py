"""Fixtures of the training tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for small_bank, which pytest's importlib mode does not find

from small_bank import small_bank

from training.language import LanguageTargets


@pytest.fixture(scope="module")
def bank() -> LanguageTargets:
    return small_bank()
