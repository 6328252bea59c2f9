"""Lets the tests of the map import their analytic frames."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for bodies, which pytest's importlib mode does not find
