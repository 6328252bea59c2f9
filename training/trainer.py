"""The optimisation of a Chorus model: one step, the running average, the state to go on from.

Everything random of a step (scenes, their variants, dropped paths, order of the curves) is drawn from the seed and the
step's number alone. So a run that was killed and goes on from its last state ends where it would have ended, and scenes
are the same however many processes share a step.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import OneCycleLR

from chorus_core.encoder.model import ChorusModel
from chorus_core.io.architecture import check_whole
from training.configs import LANGUAGE_HEAD, PretrainConfig, Recipe
from training.distributed import World
from training.objectives import ClassTexts, TeacherObjective, named_by_teacher
from training.progress import Progress
from training.scene_store import Batch, SceneStore
from training.step_batches import StepBatches, read_ahead

_STEP = 2
"""Stream of random numbers; those of ``step_batches`` have others."""


class _Predictor(nn.Module):
    """A model's predictions for some heads, in one forward pass as DistributedDataParallel needs it."""

    def __init__(self, model: ChorusModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, heads: Sequence[str]) -> dict[str, Tensor]:
        upcast = self.model(batch.feat, batch.levels)
        return {head: self.model.project(upcast, head, rows=1 << 30) for head in heads}


class Trainer:
    """Model, its running average, optimiser and schedule.

    Args:
        recipe: architecture and optimisation.
        objectives: of the recipe's teachers.
        world: this process among those that train together.
        names: of the classes that the language teacher chooses from, where it is to name voxels.
    """

    def __init__(
        self, recipe: Recipe, objectives: Sequence[TeacherObjective], world: World, names: ClassTexts | None = None
    ) -> None:
        config = recipe.pretrain
        if config.batch_scenes % world.size:
            raise ValueError(f"batch_scenes = {config.batch_scenes}: expected a multiple of {world.size} processes")
        if config.seconds and world.size > 1:
            raise ValueError("seconds: several processes would not stop at the same step; give steps")
        self.recipe, self.config, self.world = recipe, config, world
        self.progress = Progress(config.steps, config.seconds)
        self.objectives = tuple(objectives)
        self.names = names
        torch.manual_seed(config.seed)
        self.model = ChorusModel(recipe.model, config.drop_path).to(world.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._predictor: nn.Module = _Predictor(self.model)
        if world.size > 1:
            staged = any(t.starts_at > 0 for t in config.teachers)
            self._predictor = DistributedDataParallel(self._predictor, find_unused_parameters=staged)
        groups = _parameter_groups(self.model, config)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=world.device.type == "cuda")
        self.schedule = OneCycleLR(
            self.optimizer, [g["lr"] for g in groups], total_steps=self.progress.points,
            pct_start=config.warmup * (1 + 1e-9),  # OneCycleLR divides by zero where the rise takes exactly one step
            div_factor=config.divide_first, final_div_factor=config.divide_last, cycle_momentum=False,
        )  # fmt: skip
        self.step = 0

    # ---- data --------------------------------------------------------------------------------------------------------

    def batches(self, store: SceneStore, workers: int = 0) -> Iterator[Batch]:
        """This process's share of the batches of all steps still to come, on its device.

        Args:
            workers: processes that draw them ahead.
        """
        steps = range(self.step, self.config.steps)
        drawn = read_ahead(StepBatches(store, self.recipe, self.world), steps, workers, self.world.device)
        for step, batch in zip(steps, drawn, strict=True):
            if self.progress.over(step):
                return
            yield batch

    # ---- a step ------------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update; returns the loss terms, still on the device."""
        progress = self.progress.share(self.step)
        active = [o for o in self.objectives if o.active(progress)]
        if self.names is not None:
            batch = named_by_teacher(batch, LANGUAGE_HEAD, self.names)
        terms = self._losses(batch, active, progress)
        loss = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if bool(torch.isfinite(norm)):  # a single bad batch must not end a run
            self.optimizer.step()
            self._update_average()
        self.step += 1
        self.progress.advance(self.schedule, self.step)
        return {name: value.detach() for name, value in terms.items()} | {"loss": loss.detach(), "grad_norm": norm}

    def _losses(self, batch: Batch, active: Sequence[TeacherObjective], progress: float) -> dict[str, Tensor]:
        host = np.random.default_rng([self.config.seed, _STEP, self.step, self.world.rank])
        torch.manual_seed(int(host.integers(2**62)))  # dropped paths
        rng = torch.Generator(self.world.device).manual_seed(int(host.integers(2**62)))
        self.model.train()
        device = self.world.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            predicted = self._predictor(batch, [o.config.head for o in active])
            return {
                f"{o.config.head}.{name}": value
                for o in active
                for name, value in o.loss(predicted[o.config.head], batch, rng, progress).items()
            }

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step)) if self.config.ema else 0.0
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        mine, theirs = (list(side) for side in zip(*pairs, strict=True))
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    # ---- going on ----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on exactly."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`.

        Raises:
            ValueError, KeyError, RuntimeError: the state is of another run, or of none.
        """
        check_whole("step", state["step"], 0, 1 << 40)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]


def allow_tf32() -> None:
    """Let matrix products and sparse convolutions round their float32 inputs, which training does not notice."""
    torch.set_float32_matmul_precision("high")
    with contextlib.suppress(ImportError):
        from spconv import constants

        constants.SPCONV_ALLOW_TF32 = True


def _parameter_groups(model: ChorusModel, config: PretrainConfig) -> list[dict[str, Any]]:
    """Blocks at their own rate, as in the paper; no decay on norms and biases."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((".block" in name, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.block_rate if in_block else config.learning_rate,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (in_block, decays), parameters in groups.items()
    ]
