"""Lets the tests here import ``small_rooms``, which pytest's importlib mode does not find."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
