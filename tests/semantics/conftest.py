"""Makes what the semantics tests share importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # for hashed_encoder, which pytest's importlib mode does not find
