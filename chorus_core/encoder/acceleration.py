"""Where the Triton kernels may stand for their plain torch twins."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def use_kernels(x: Tensor) -> bool:
    """Whether kernels can work on ``x``: it lies on a GPU, no gradient is wanted of it, and Triton is installed."""
    wanted = x.is_floating_point() and torch.is_grad_enabled()
    return x.is_cuda and not wanted and _has_triton()
