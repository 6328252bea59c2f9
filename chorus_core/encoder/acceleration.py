"""Where the Triton kernels may stand for their plain torch twins."""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def use_kernels(x: Tensor) -> bool:
    """Whether kernels can work on ``x``: it lies on the current GPU, no gradient is wanted of it, Triton is there."""
    wanted = x.is_floating_point() and torch.is_grad_enabled()
    return x.is_cuda and not wanted and _has_triton() and x.device.index == torch.cuda.current_device()


def current(device: torch.device) -> AbstractContextManager[object]:
    """A context in which this device is the one that kernels are launched on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
