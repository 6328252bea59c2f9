"""The processes of a run under torchrun; one process without it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import distributed


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

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()


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
