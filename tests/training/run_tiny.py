"""A small training run on the CPU, of one process or of several under torchrun; each records what it saw and lost.

Not a test: test_trainer.py runs it. Arguments: data folder, output folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

from small_scenes import STILL, TINY, tiny_recipe

import training.pretrain as cli
from training.configs import Recipe, TeacherConfig
from training.distributed import join, leave
from training.objectives import TeacherObjective
from training.scene_store import Batch, SceneStore
from training.trainer import Trainer

DIM = 16


def recipe() -> Recipe:
    """Feature losses of balanced classes, a staged teacher, and one attention patch a scene.

    So what is left between one process and several is the order of sums. (The contrastive terms are in
    test_distributed.py: one draws at random in each process, and the other's low temperature magnifies rounding.)
    """
    from dataclasses import replace

    teachers = (
        TeacherConfig("lang", DIM, class_power=0.5),
        TeacherConfig("obj", DIM, class_power=0.0, starts_at=0.5),
    )
    model = replace(TINY, patch_size=512)
    return tiny_recipe(teachers, model, batch_scenes=4, steps=8, augment=STILL, learning_rate=5e-3)


class Recorder(Trainer):
    """Keeps the voxel features of each step, scene by scene, and its losses."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.seen: list[list[Tensor]] = []
        self.losses: list[dict[str, float]] = []

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        sizes = torch.diff(batch.offset, prepend=torch.zeros(1, dtype=torch.int64)).tolist()
        self.seen.append(list(torch.cat((batch.grid, batch.feat), dim=1).split(sizes)))
        figures = super().train_step(batch)
        self.losses.append({name: float(value) for name, value in figures.items()})
        return figures


def main(data: Path, out: Path) -> None:
    world = join("cpu")
    made = recipe()
    store = SceneStore(data, "train", ("lang", "obj"), ())
    trainer = Recorder(made, [TeacherObjective(t, world=world) for t in made.pretrain.teachers], world)
    out.mkdir(parents=True, exist_ok=True)
    cli.pretrain(trainer, store, None, None, out, workers=0)
    record = {"seen": trainer.seen, "losses": trainer.losses, "average": trainer.average.state_dict()}
    torch.save(record, out / f"record_{world.rank}.pt")
    leave(world)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
