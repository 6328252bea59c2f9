"""A text encoder for tests: no weights, and every text has a direction of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

DIM = 24


class HashedEncoder:
    """A unit vector from the hash of each text: an encoder without weights."""

    name = "hashed"
    dim = DIM

    def encode(self, texts: Sequence[str]) -> Tensor:
        rows = [np.random.default_rng(list(text.encode())).normal(size=DIM) for text in texts]
        return torch.nn.functional.normalize(torch.tensor(np.array(rows)).float().view(-1, DIM), dim=-1)
