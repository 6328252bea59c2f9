"""``python -m benchmarks.train_step``: seconds and memory of a pretraining step, and where they go.

Random features stand for the teachers' (time does not depend on them); scenes are surfaces of rooms, one Gaussian a
voxel. ``draw_s`` is CPU time of a batch on ``torch_threads`` threads: in training, processes that read ahead spend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from benchmarks.building import rooms
from benchmarks.report import parser, peak_memory_mib, publish, reset_peak_memory, seconds_of
from training.configs import RECIPES, Recipe
from training.distributed import World
from training.objectives import ClassTexts, TeacherObjective
from training.prepared import LiftedFeatures
from training.scene_store import Batch, StoredScene, collate, draw_sample, with_levels
from training.trainer import Trainer

CLASSES, THINGS = 100, 60


def make_scene(recipe: Recipe, count: int, voxel: float, seed: int) -> StoredScene:
    """A scene of ``count`` Gaussians whose classes and things are blocks of space."""
    gaussians = rooms(count, (0.0, 0.0, 0.0), voxel, seed)
    generator = torch.Generator().manual_seed(seed)
    cell = (gaussians.means / 0.8).floor().long()
    thing = (cell[:, 0] * 31 + cell[:, 1] * 7 + cell[:, 2]) % THINGS
    features = {}
    for teacher in recipe.pretrain.teachers:
        table = torch.randn((len(gaussians), teacher.dim), generator=generator)
        features[teacher.head] = normalize(table, dim=1).half()
    index = torch.arange(len(gaussians))
    lifted = {head: LiftedFeatures(table, index) for head, table in features.items()}
    normals = normalize(torch.randn(gaussians.means.shape, generator=generator), dim=1)
    return StoredScene(gaussians, normals, thing % CLASSES, thing, lifted, voxel)


def make_trainer(recipe: Recipe, device: torch.device) -> Trainer:
    """A trainer of the recipe with all teachers joined from the start."""
    teachers = tuple(replace(t, starts_at=0.0) for t in recipe.pretrain.teachers)
    recipe = recipe.with_teachers(teachers)
    known = torch.ones(CLASSES, dtype=torch.bool, device=device)
    names = {t.head: normalize(torch.randn(CLASSES, t.dim, device=device), dim=1) for t in teachers}
    objectives = [TeacherObjective(t, texts=ClassTexts(names[t.head], known)) for t in teachers]
    return Trainer(recipe, objectives, World(0, 1, device))


def measure(name: str, count: int, scenes: int, steps: int, device: torch.device, profile: bool) -> dict[str, Any]:
    """A row: medians over steps after two that are not counted."""
    recipe = RECIPES[name]
    augment = replace(recipe.pretrain.augment, max_points=count, drop=0.0)
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, batch_scenes=scenes, augment=augment))
    trainer = make_trainer(recipe, device)
    stored = [make_scene(recipe, count, recipe.model.grid_size, seed) for seed in range(scenes)]

    def draw(step: int) -> Batch:
        parts = [
            draw_sample(s, augment, recipe.model.grid_size, (0, step, k), recipe.points) for k, s in enumerate(stored)
        ]
        return with_levels(collate(parts), recipe.model)

    drawing, training = [], []
    reset_peak_memory(device)
    for step in range(steps + 2):
        held: list[Batch] = []
        drawing.append(seconds_of(lambda step=step, held=held: held.append(draw(step)), device))
        training.append(seconds_of(lambda held=held: trainer.train_step(held[0].to(device)), device))
    voxels = held[0].grid.shape[0]
    if profile:
        print_profile(trainer, draw(0).to(device), device)
    return {
        "recipe": name,
        "scenes": scenes,
        "Gaussians": count * scenes,
        "voxels": voxels,
        "parameters_M": round(sum(p.numel() for p in trainer.model.parameters()) / 1e6, 2),
        "draw_s": float(np.median(drawing[2:])),
        "step_s": float(np.median(training[2:])),
        "peak_MiB": round(peak_memory_mib(device)),
    }


def print_profile(trainer: Trainer, batch: Batch, device: torch.device) -> None:
    """The operations that took longest in one step."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    with torch.profiler.profile(activities=kinds) as profiler:
        trainer.train_step(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
    by = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = profiler.key_averages()
    print(averages.table(sort_by=by, row_limit=25, max_name_column_width=60))
    if device.type == "cuda":
        print(averages.table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=60))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--recipe", nargs="+", default=["chorus_mini", "chorus_base"], choices=sorted(RECIPES))
    options.add_argument("--gaussians", type=int, nargs="+", default=[50_000, 192_000], help="of a scene, one a recipe")
    options.add_argument("--scenes", type=int, nargs="+", default=[8, 1], help="of a step, one a recipe")
    options.add_argument("--steps", type=int, default=10, help="measured steps")
    options.add_argument("--profile", action="store_true", help="print where a step's time goes")
    a = options.parse_args(arguments)
    device = torch.device(a.device)
    torch.set_float32_matmul_precision("high")
    rows = [
        measure(name, count, scenes, a.steps, device, a.profile)
        for name, count, scenes in zip(a.recipe, a.gaussians, a.scenes, strict=True)
    ]
    publish("train_step", rows, device, a.out)


if __name__ == "__main__":
    main()
