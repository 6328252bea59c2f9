"""Makes what the tests of teachers share importable."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode does not find it
sys.path.append(str(Path(__file__).parents[1] / "semantics"))  # for hashed_encoder
sys.path.append(str(Path(__file__).parents[1] / "encoder"))  # for local_hub
