"""Makes the layouts module importable, which pytest's importlib mode does not find."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
