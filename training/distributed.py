"""The processes of a run under torchrun; one process without it.

Each holds a part of a batch, and DistributedDataParallel averages their gradients. For that average to be the gradient
of the whole batch, a weighted mean divides by :meth:`World.share` of the weights, and whatever is no mean over voxels
is made of sums over all parts (:meth:`World.total`), by every process alike.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class World:
    """Where this process stands.

    Attributes:
        rank: its number.
        size: how many there are.
        device: what it computes on.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def total(self, table: Tensor) -> Tensor:
        """Sum over the processes of tables [n, ...] whose lengths may differ, and are padded with 0.

        What every process computes alike from the sum has the right gradient.
        """
        if self.size == 1:
            return table
        missing = self.highest(len(table)) - len(table)
        return _Sum.apply(torch.cat((table, table.new_zeros((missing, *table.shape[1:])))), self.size)

    def share(self, value: Tensor) -> Tensor:
        """Mean over the processes of a value [...]; without gradient."""
        return value if self.size == 1 else _Sum.apply(value.detach(), self.size) / self.size

    def highest(self, value: int) -> int:
        """Of all processes' values."""
        if self.size == 1:
            return value
        found = torch.tensor(value, device=self.device)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()


ALONE = World(0, 1, torch.device("cpu"))
"""One process by itself, on any device."""


class _Sum(torch.autograd.Function):
    """Sum over processes; all go on with it in the same way, so each one's gradient is that of all."""

    @staticmethod
    def forward(context: Any, value: Tensor, size: int) -> Tensor:
        context.size = size
        summed = value.contiguous().clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.size, None  # DistributedDataParallel divides by it


def join(device: str) -> World:
    """Join the processes that torchrun started, each with its GPU ("cuda") or all on the CPU ("cpu")."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device == "cuda":
        # More processes than GPUs share them: slower, but the same arithmetic.
        local = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        torch.cuda.set_device(local)
        chosen = torch.device("cuda", local)
    else:
        chosen = torch.device(device)
    if size > 1 and not distributed.is_initialized():
        own_gpu = device == "cuda" and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", size))
        distributed.init_process_group("nccl" if own_gpu else "gloo")
    return World(rank, size, chosen)


def leave(world: World) -> None:
    """Part from the other processes."""
    if world.size > 1 and distributed.is_initialized():
        distributed.destroy_process_group()
