"""Makes helpers of these tests importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for local_hub, which pytest's importlib mode does not find
