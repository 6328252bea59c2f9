"""Batches of the steps of a run, drawn on the CPU by processes that read ahead of the trainer.

What a step trains on is drawn from the seed and the step's number alone, so neither the number of processes that read
nor of those that train changes it, and a run that goes on sees what it would have seen.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from training.configs import PretrainConfig, Recipe
from training.distributed import World
from training.scene_store import Batch, SceneStore, collate, draw_sample, with_levels

_PICKS, _VARIANT, _CURVES = 1, 3, 4
"""Streams of random numbers that must not share seeds."""


class StepBatches(Dataset):
    """The share of one process of the batch of every step, by the step's number.

    Args:
        store: scenes to draw from.
        recipe: how.
        world: the process among those that train together.
    """

    def __init__(self, store: SceneStore, recipe: Recipe, world: World) -> None:
        share = recipe.pretrain.batch_scenes // world.size
        self.slots = range(world.rank * share, (world.rank + 1) * share)
        self._store, self._recipe, self._rank = store, recipe, world.rank
        self._pick = scene_order(len(store), recipe.pretrain)

    def __getitem__(self, step: int) -> Batch:
        host = np.random.default_rng([self._recipe.pretrain.seed, _CURVES, step, self._rank])
        curves = [host.permutation(4).tolist() for _ in self._recipe.model.enc_depths]
        return with_levels(collate([self._variant(step, slot) for slot in self.slots]), self._recipe.model, curves)

    def _variant(self, step: int, slot: int) -> Batch:
        config, model = self._recipe.pretrain, self._recipe.model
        seed = (config.seed, _VARIANT, step, slot)
        scene = self._store[self._pick(step, slot)]
        return draw_sample(scene, config.augment, model.grid_size, seed, self._recipe.points)


def read_ahead(batches: StepBatches, steps: Iterable[int], workers: int, device: torch.device) -> Iterator[Batch]:
    """Batches of those steps, in their order, on the device.

    Args:
        workers: processes that draw; 0 draws here, when a batch is asked for.
    """
    if workers == 0:
        yield from (batches[step].to(device) for step in steps)
        return
    # Tensors travel between processes as open files, dozens a batch.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    pinned = device.type == "cuda"
    loader = DataLoader(batches, batch_size=None, sampler=steps, num_workers=workers, pin_memory=pinned)
    yield from (batch.to(device) for batch in loader)


def scene_order(count: int, config: PretrainConfig) -> Callable[[int, int], int]:
    """A function from (step, slot) to a scene: every epoch visits all scenes once, in an order of its own."""
    orders: dict[int, np.ndarray] = {}

    def pick(step: int, slot: int) -> int:
        epoch, place = divmod(step * config.batch_scenes + slot, count)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([config.seed, _PICKS, epoch]).permutation(count)
        return int(orders[epoch][place])

    return pick
