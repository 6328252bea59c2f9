"""Where tensors live."""

from __future__ import annotations

import torch

from chorus_core.config import ConfigError


def choose_device(name: str) -> torch.device:
    """The named device; CUDA, where there is one, for "auto".

    Raises:
        ConfigError: CUDA is asked for where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda': no CUDA device is available")
    return torch.device(name)
