"""``python -m training.ablate``: which teachers and which input pay, against direct lifting, in one table.

Trains one model a row and seed on the same prepared rooms with the same steps (``training.pretrain``, several at a
time where the device has room), then labels held-out rooms, each mapped from few and from many frames. Finished runs
are kept: the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from chorus_core.encoder import ChorusEncoder
from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import read_json
from chorus_core.teachers import load_teacher
from training.command_line import run_command
from training.evaluation.encoded import SceneAccuracy, Unseen, predict
from training.evaluation.few_views import Room, encode_room, few_view_rooms, lift_directly
from training.figure import save_figure, shared_legend
from training.language import LanguageTargets
from training.runs import Run, run_all

logger = logging.getLogger(__name__)

DIRECT = "direct lifting"
COLUMNS = ("seen", "held_back", "unseen_instances")
"""Groups of :class:`SceneAccuracy` in the table: seen categories, held-back categories, held-back objects."""


@dataclass(frozen=True)
class Row:
    """A model of the table: recipe, teachers, further options of ``training.pretrain``."""

    recipe: str
    heads: tuple[str, ...]
    options: tuple[str, ...] = ()


TEACHERS: Mapping[str, tuple[str, ...]] = {
    "language": ("lang",),
    "language + generalist": ("lang", "gen"),
    "language + generalist + object-aware": ("lang", "gen", "obj"),
}
LABELS_USED: Mapping[str, tuple[str, ...]] = {
    "": (),
    ", contrasts only": ("--labels", "contrast"),
    ", named by the teacher": ("--labels", "teacher"),
    ", no labels": ("--labels", "none"),
}
"""What tells voxels apart (``training.configs.LABELS``); rows without a name for it learn from the scenes' labels."""

ROWS: Mapping[str, Row] = {
    **{
        teachers + used: Row("chorus_mini", heads, options)
        for used, options in LABELS_USED.items()
        for teachers, heads in TEACHERS.items()
    },
    "the same, points": Row("chorus_mini_pts", ("lang", "gen", "obj")),
    "label texts, no 2D teacher": Row("chorus_mini", ("lang",), ("--phrases",)),
}


def run_name(row: str, seed: int | str) -> str:
    """Folder of a run."""
    return f"{row.replace(' + ', '+').replace(', ', '-').replace(' ', '_')}_{seed}"


def make_runs(rows: Sequence[str], seeds: Sequence[int], a: argparse.Namespace) -> list[Run]:
    """A training for each row and seed; all rows of a seed before the next."""
    schedule = ("--seconds", a.seconds) if a.seconds else ("--steps", a.steps)
    common = (
        "--data", a.data, "--bank", a.bank, "--batch-scenes", a.batch_scenes, "--max-points", a.max_points, *schedule,
        "--validate-every", a.validate_every, "--save-every", a.validate_every, "--workers", a.workers,
        "--device", a.device, "--keep-scenes",
    )  # fmt: skip
    runs = []
    for seed in seeds:
        for name in rows:
            row, folder = ROWS[name], a.out / "runs" / run_name(name, seed)
            own = ("--recipe", row.recipe, "--heads", *row.heads, *row.options, "--seed", seed, "--out", folder)
            runs.append(Run(folder, "training.pretrain", (*common, *own)))
    return runs


def accuracy(
    rooms: Sequence[Room], features: Sequence[Tensor], bank: LanguageTargets, unseen: Unseen
) -> dict[str, Any]:
    """Foreground mIoU of each group over rooms with features."""
    tables = SceneAccuracy(bank.names, unseen)
    names = bank.name_embeddings().to(features[0].device)
    for room, found in zip(rooms, features, strict=True):
        scene = room.with_features(found)
        tables.add(scene, predict(scene.features, names))
    return tables.report()["pooled"]


def finished_runs(rows: Sequence[str], out: Path) -> list[tuple[str, int]]:
    """Row and seed of every run that is done, in the order of the rows."""
    seeds = {
        row: sorted(int(p.parent.name.rpartition("_")[2]) for p in out.glob(f"runs/{run_name(row, '*')}/done"))
        for row in rows
    }
    return [(row, seed) for row in rows for seed in seeds[row]]


def evaluate(rows: Sequence[str], a: argparse.Namespace) -> dict[str, Any]:
    """For each number of views and each row the groups' f-mIoU, one entry a finished seed; direct lifting has one."""
    device = torch.device(a.device)
    bank = LanguageTargets.load(a.bank)
    unseen = unseen_of(bank, a.rooms)
    teacher = load_teacher(a.teacher, device)
    encoders = {
        (row, seed): ChorusEncoder.from_pretrained(a.out / "runs" / run_name(row, seed) / "model", device)
        for row, seed in finished_runs(rows, a.out)
    }
    found: dict[str, Any] = {}
    for views in a.views:
        made = few_view_rooms(a.rooms, "test", views, a.voxel, bank, device)
        rooms = list(tqdm(made, desc=f"{views} views", disable=None))
        lifted = [lift_directly(room, teacher, device) for room in rooms]
        table = {DIRECT: [accuracy(rooms, lifted, bank, unseen)]}
        for (row, seed), encoder in encoders.items():
            features = [encode_room(room, encoder) for room in rooms]
            table.setdefault(row, []).append({"seed": seed, **accuracy(rooms, features, bank, unseen)})
        found[str(views)] = table
        logger.info("%d views: %s", views, {row: round(_mean(t, "seen")[0], 4) for row, t in table.items()})
    return found


def unseen_of(bank: LanguageTargets, rooms: Path) -> Unseen:
    """Categories and models that training rooms do not hold, from the lists the generator writes."""
    trained = frozenset(read_json(rooms / "trained_categories.json", kind=list))
    names = dict(zip(bank.categories, bank.names, strict=True))
    objects = read_json(rooms / "held_back_objects.json", kind=list)
    return Unseen(frozenset(objects), frozenset(name for key, name in names.items() if key not in trained))


def _mean(entries: Sequence[Mapping[str, Any]], group: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds of a group's f-mIoU."""
    values = np.array([entry[group]["f_miou"] for entry in entries])
    return float(values.mean()), float(values.std())


def markdown(found: Mapping[str, Any]) -> str:
    """The table: a line a row and number of views."""
    lines = [
        "| views | model | seen categories | held-back categories | held-back objects | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for views, table in found.items():
        for row, entries in table.items():
            figures = [_mean(entries, group) for group in COLUMNS]
            cells = [f"{mean:.3f}" + (f" ± {std:.3f}" if len(entries) > 1 else "") for mean, std in figures]
            lines.append(f"| {views} | {row} | {' | '.join(cells)} | {len(entries)} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[str, Any], path: Path) -> None:
    """The curve of each row over the number of views."""
    views = [int(v) for v in found]
    panels = (("seen", "seen categories"), ("unseen_instances", "held-back objects"))
    with save_figure(path, columns=2) as axes:
        for axis, (group, title) in zip(axes, panels, strict=True):
            for row in next(iter(found.values())):
                means, spreads = zip(*(_mean(found[v][row], group) for v in found), strict=True)
                style = {"color": "black", "linestyle": "--"} if row == DIRECT else {}
                axis.errorbar(views, means, spreads, marker="o", capsize=3, label=row, **style)
            axis.set(xscale="log", xticks=views, xticklabels=views, xlabel="frames of the room", title=title)
            axis.set_ylabel("f-mIoU")
            axis.grid(alpha=0.3)
        shared_legend(axes)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.ablate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared rooms to train on (training.prepare)")
    parser.add_argument("--rooms", type=Path, required=True, help="test rooms with views (generate --keep-views)")
    parser.add_argument("--teacher", default="embedded", help="2D teacher that is lifted directly (as in --data)")
    parser.add_argument("--bank", type=Path, required=True, help="language bank (training.language)")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs, table and curve")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--views", type=int, nargs="+", default=[5, 20, 100], help="frames a room is mapped from")
    parser.add_argument("--voxel", type=float, default=0.04, help="voxel size of the maps, metres")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seconds", type=float, help="train each run for so long instead")
    parser.add_argument("--batch-scenes", type=int, default=8)
    parser.add_argument("--max-points", type=int, default=50_000)
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--workers", type=int, default=4, help="processes that draw batches ahead, for each run")
    parser.add_argument("--no-training", action="store_true", help="evaluate finished runs only")
    parser.add_argument("--no-evaluation", action="store_true", help="train only")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    a.out.mkdir(parents=True, exist_ok=True)
    if not a.no_training:
        run_all(make_runs(a.rows, a.seeds, a), a.jobs)
    if a.no_evaluation:
        return
    found = evaluate(a.rows, a)
    with atomic_path(a.out / "ablation.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with atomic_path(a.out / "ablation.md") as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")
    draw(found, a.out / "ablation.png")
    print(markdown(found))


if __name__ == "__main__":
    run_command(main)
