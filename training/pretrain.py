"""``python -m training.pretrain``: multi-teacher pretraining of a Chorus model on prepared scenes.

One process, or several under ``torchrun --nproc-per-node N -m training.pretrain ...``. The same command goes on from
the last state of a run that was stopped. Written to the output folder: ``state.pt`` to go on from, ``log.jsonl`` and
TensorBoard events, ``config.json``, and ``model/``, the averaged weights as a model folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from chorus_core.encoder.checkpoint import read_model, write_model
from chorus_core.io.atomic import atomic_path
from chorus_core.io.errors import reading
from chorus_core.io.weights import read_state
from chorus_core.semantics.text_encoder import load_text_encoder
from training.command_line import run_command
from training.configs import LABELS, LANGUAGE_HEAD, RECIPES, Recipe
from training.distributed import World, join, leave
from training.language import LanguageTargets
from training.objectives import ClassTexts, TeacherObjective, class_texts, fit_phi_s
from training.scene_store import SceneStore, class_names
from training.trainer import Trainer, allow_tf32
from training.validate import validate

logger = logging.getLogger(__name__)


class RunLog:
    """Figures of a run: a line of JSON each, and TensorBoard where it is installed."""

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / "log.jsonl"
        if self._path.is_file():  # what a killed run logged after its last state will be logged again
            text = self._path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1].splitlines()  # a kill may have cut the last line short
            lines = [line for line in whole if json.loads(line)["step"] <= step]
            with atomic_path(self._path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info("no TensorBoard here; figures go to %s only", self._path)
            self._board = None
        else:
            self._board = SummaryWriter(folder, purge_step=step + 1 if step else None)

    def write(self, step: int, figures: dict[str, float]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in figures.items()}}) + "\n")
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(name.replace(".", "/"), value, step)
            self._board.flush()


def pretrain(
    trainer: Trainer, train: SceneStore, val: SceneStore | None, texts: ClassTexts | None, out: Path, workers: int
) -> None:
    """Run the steps still to come; log, validate and save on the way and at the end."""
    config, world, first = trainer.config, trainer.world, trainer.step
    log = RunLog(out, first) if world.main else None
    recent: list[dict[str, Tensor]] = []
    began = time.perf_counter()

    def report(figures: bool, validation: bool, state: bool) -> None:
        nonlocal recent, began
        if figures and recent:
            means = _means(recent, world)
            rate = len(recent) * config.batch_scenes / (time.perf_counter() - began)
            if log is not None:
                log.write(trainer.step, means | {"scenes_per_second": rate})
            recent, began = [], time.perf_counter()
        if log is None:
            return
        if validation and val is not None and texts is not None:
            scores = validate(trainer.average, val, texts, trainer.recipe.points, LANGUAGE_HEAD)
            log.write(trainer.step, scores)
            logger.info("step %d: %s", trainer.step, {k: round(v, 4) for k, v in scores.items()})
            began = time.perf_counter()
        if state:
            _save(trainer, out)

    bar = tqdm(total=config.steps, initial=first, desc="pretrain", disable=None if world.main else True)
    for batch in trainer.batches(train, workers):
        recent.append(trainer.train_step(batch))
        bar.update()
        step = trainer.step
        report(step % 50 == 0, step % config.validate_every == 0, step % config.save_every == 0)
    if (step := trainer.step) > first:
        report(True, step % config.validate_every != 0, step % config.save_every != 0)
        world.barrier()
    bar.close()


def _means(recent: Sequence[dict[str, Tensor]], world: World) -> dict[str, float]:
    """Mean of each figure over the steps that have it (a staged teacher has none before it joins) and all processes."""
    names = dict.fromkeys(name for figures in recent for name in figures)
    means = torch.stack([torch.stack([f[name].float() for f in recent if name in f]).mean() for name in names])
    return dict(zip(names, world.share(means).tolist(), strict=True))


def _save(trainer: Trainer, out: Path) -> None:
    write_model(out / "model", trainer.average, describe(trainer))
    # The state comes last: a run killed between the two does its last steps again and so writes the model anew.
    with atomic_path(out / "state.pt") as temporary:
        torch.save(trainer.state(), temporary)


def describe(trainer: Trainer) -> dict[str, Any]:
    """What a model folder says of its making."""
    config = trainer.config
    return {
        "name": trainer.recipe.name,
        "input": "points" if trainer.recipe.points else "gaussians",
        "teachers": {t.head: {"target": t.target, "phi_s": t.phi_s, "starts_at": t.starts_at} for t in config.teachers},
        "text": {"encoder": config.text_encoder, "head": LANGUAGE_HEAD},
        "steps": trainer.step,
        "seed": config.seed,
    }


def build_trainer(
    recipe: Recipe, train: SceneStore, texts: ClassTexts | None, bank: LanguageTargets | None, world: World
) -> Trainer:
    """A trainer with the objectives of the recipe's teachers."""
    teachers = recipe.pretrain.teachers
    standard = fit_phi_s(train, teachers, recipe.pretrain.seed)
    objectives = [
        TeacherObjective(t, standard[t.head].to(world.device) if t.head in standard else None, texts, bank, world)
        for t in teachers
    ]
    return Trainer(recipe, objectives, world, texts if recipe.pretrain.labels == "teacher" else None)


def take_weights(trainer: Trainer, name_or_path: str) -> None:
    """Start from the weights of another model, where it has parameters of the same name and shape."""
    there = read_model(name_or_path)[0].state_dict()
    own = trainer.model.state_dict()
    taken = {name: value for name, value in there.items() if name in own and own[name].shape == value.shape}
    if fresh := sorted(set(own) - set(taken)):
        logger.info("%s lacks %d of %d parameters, such as %s", name_or_path, len(fresh), len(own), fresh[0])
    for model in (trainer.model, trainer.average):
        model.load_state_dict({**own, **taken})


def embed_names(classes: Sequence[str], bank: LanguageTargets | None, encoder: str, device: torch.device) -> Tensor:
    """Unit embeddings of class names [C, D], from a bank that holds them all, else by the text encoder."""
    if bank is None:
        return load_text_encoder(encoder, device).encode(list(classes)).to(device)
    place = {name: i for names in (bank.categories, bank.names) for i, name in enumerate(names)}
    if missing := [name for name in classes if name not in place]:
        raise SystemExit(f"the language bank lacks {missing[0]!r} ({len(missing)} of {len(classes)} class names)")
    return bank.name_embeddings()[[place[name] for name in classes]].to(device)


def choose_recipe(a: argparse.Namespace) -> Recipe:
    """The named recipe with the options given."""
    recipe = RECIPES[a.recipe]
    given = {
        name: getattr(a, name)
        for name in (
            "steps",
            "seconds",
            "batch_scenes",
            "learning_rate",
            "block_rate",
            "validate_every",
            "save_every",
            "seed",
            "text_encoder",
        )
        if getattr(a, name) is not None
    }
    if a.seconds and a.steps is None:
        given["steps"] = 1_000_000
    if a.max_points is not None:
        given["augment"] = replace(recipe.pretrain.augment, max_points=a.max_points)
    recipe = replace(recipe, pretrain=replace(recipe.pretrain, **given))
    if a.heads:
        known = {t.head: t for t in recipe.pretrain.teachers}
        if unknown := sorted(set(a.heads) - set(known)):
            raise SystemExit(f"--heads {unknown[0]}: the recipe {a.recipe} has {sorted(known)}")
        recipe = recipe.with_teachers(tuple(known[h] for h in a.heads))
    if a.phrases:
        changed = (replace(t, target="phrases") if t.head == LANGUAGE_HEAD else t for t in recipe.pretrain.teachers)
        recipe = recipe.with_teachers(tuple(changed))
    if a.labels == "teacher" and not any(t.head == LANGUAGE_HEAD for t in recipe.pretrain.teachers):
        raise SystemExit(f"--labels teacher: the language teacher ({LANGUAGE_HEAD!r}) is not among the heads")
    if a.labels == "teacher" and a.phrases:
        raise SystemExit("--labels teacher: phrases are texts of the scenes' own labels; give one or the other")
    return recipe.with_labels(a.labels)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared data set (training.prepare)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--recipe", default="chorus_mini", choices=sorted(RECIPES), help="architecture and schedule")
    parser.add_argument("--heads", nargs="+", help="only these teachers of the recipe")
    parser.add_argument("--bank", type=Path, help="language bank (training.language) of the class names")
    parser.add_argument("--text-encoder", help="embeds class names where no bank is given (default minilm)")
    parser.add_argument("--phrases", action="store_true", help="teach language by texts of the labels, not lifted")
    labels = "; ".join(f"{name}: {meaning}" for name, meaning in LABELS.items())
    parser.add_argument(
        "--labels", default="all", choices=LABELS, help=f"what tells voxels apart by class and instance. {labels}"
    )
    parser.add_argument("--steps", type=int, help="updates of the whole schedule")
    parser.add_argument("--seconds", type=float, help="train for so long instead, with the schedule by the clock")
    parser.add_argument("--batch-scenes", type=int, help="scenes a step, over all processes")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--block-rate", type=float)
    parser.add_argument("--max-points", type=int, help="Gaussians a scene is cropped to")
    parser.add_argument("--validate-every", type=int, help="steps")
    parser.add_argument("--save-every", type=int, help="steps")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--init", help="model to start from: a folder or the name of a shipped one")
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1),
        help="processes that draw batches, for each that trains; a GPU keeps about eight busy (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-scenes", action="store_true", help="read scenes once and keep them in memory (all but their features)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    a = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    world = join(a.device)
    allow_tf32()
    bank = LanguageTargets.load(a.bank, world.device) if a.bank else None
    recipe = choose_recipe(a)
    if bank is not None:
        recipe = replace(recipe, pretrain=replace(recipe.pretrain, text_encoder=bank.encoder_name))
    heads = [t.head for t in recipe.pretrain.teachers if t.target == "lifted"]
    classes = class_names(a.data, [subset for subset in ("train", "val") if (a.data / subset).is_dir()])
    train = SceneStore(a.data, "train", heads, classes, a.keep_scenes)
    val = SceneStore(a.data, "val", (), classes) if (a.data / "val").is_dir() else None
    has_names = bool(classes) and LANGUAGE_HEAD in recipe.model.heads
    encoder = recipe.pretrain.text_encoder
    names = embed_names(classes, bank, encoder, world.device) if has_names else None
    texts = None if names is None else class_texts(names, None if a.labels == "teacher" else train)
    if texts is None and a.labels == "teacher":
        raise SystemExit(f"--labels teacher: the scenes of {a.data} declare no class names to choose from")

    trainer = build_trainer(recipe, train, texts, bank, world)
    if a.init:
        take_weights(trainer, a.init)
    a.out.mkdir(parents=True, exist_ok=True)
    if (a.out / "state.pt").is_file():
        with reading(a.out / "state.pt"):
            trainer.restore(read_state(a.out / "state.pt"))
        logger.info("going on from step %d of %d", trainer.step, recipe.pretrain.steps)
    if world.main:
        (a.out / "config.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    pretrain(trainer, train, val, texts, a.out, a.workers)
    leave(world)


if __name__ == "__main__":
    run_command(main)
