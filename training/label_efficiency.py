"""``python -m training.label_efficiency``: how far few labels go with a pretrained encoder, and without one.

Probes of several kinds learn from all labels, from shares of the scenes, and from a few points of each scene
(``training.evaluate probe``, several at a time), and label the same held-out scenes. Finished runs are kept: the same
command goes on after a stop.
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

from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import read_json
from training.command_line import run_command
from training.figure import save_figure, shared_legend
from training.probes import KINDS
from training.runs import Run, run_all

FRACTIONS, POINTS = (0.01, 0.05, 0.1, 0.2), (20, 50, 100, 200)
"""Of ScanNet's data-efficient benchmark (Hou et al. 2021)."""


@dataclass(frozen=True)
class Labels:
    """What a probe may learn from: a share of the scenes, and so many points of each (None: all)."""

    fraction: float = 1.0
    points: int | None = None

    @property
    def name(self) -> str:
        if self.points is not None:
            return f"{self.points} points"
        return f"{100 * self.fraction:g} %"


def make_runs(
    kinds: Sequence[str], budgets: Sequence[Labels], seeds: Sequence[int], a: argparse.Namespace
) -> list[Run]:
    """A run for each kind, budget and seed."""
    runs = []
    for seed in seeds:
        for kind in kinds:
            for labels in budgets:
                folder = a.out / "runs" / f"{kind}_{labels.name.replace(' ', '_').replace('%', 'percent')}_{seed}"
                points = ("--points-per-scene", labels.points) if labels.points is not None else ()
                classes = ("--classes", a.classes) if a.classes else ()
                arguments = (
                    "probe", "--kind", kind, "--model", a.model, "--data", a.data, "--train-subset", a.train_subset,
                    "--subset", a.subset, "--steps", a.steps, "--batch-scenes", a.batch_scenes,
                    "--max-points", a.max_points, "--seed", seed, "--scene-fraction", labels.fraction, *points,
                    *classes, "--out", folder, "--name", "report", "--device", a.device,
                )  # fmt: skip
                runs.append(Run(folder, "training.evaluate", arguments))
    return runs


def collect(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Reports of the runs that are done."""
    return [read_json(run.folder / "report.json") for run in runs if run.done]


def summary(reports: Sequence[Mapping[str, Any]], place: str = "gaussians") -> dict[str, dict[str, list[float]]]:
    """f-mIoU of each seed, by kind and budget."""
    found: dict[str, dict[str, list[float]]] = {}
    for report in reports:
        labels = Labels(report["scene_fraction"], report["points_per_scene"])
        found.setdefault(report["kind"], {}).setdefault(labels.name, []).append(report[place]["all"]["f_miou"])
    return found


def markdown(found: Mapping[str, Mapping[str, Sequence[float]]], budgets: Sequence[Labels]) -> str:
    """A line a kind, a column a budget: means over seeds, with their deviation where there are several."""
    names = [labels.name for labels in budgets]
    lines = ["| learns | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for kind, cells in found.items():
        lines.append(f"| {kind} | " + " | ".join(_cell(cells.get(name, ())) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {np.std(values):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def draw(found: Mapping[str, Mapping[str, Sequence[float]]], budgets: Sequence[Labels], path: Path) -> None:
    """f-mIoU over the share of scenes, and over points a scene."""
    panels = (
        ("scenes to learn from, %", [b for b in budgets if b.points is None], lambda b: 100 * b.fraction),
        ("labelled points of a scene", [b for b in budgets if b.points is not None], lambda b: b.points),
    )
    with save_figure(path, columns=2) as axes:
        for axis, (title, chosen, place) in zip(axes, panels, strict=True):
            for kind, cells in found.items():
                there = sorted((b for b in chosen if b.name in cells), key=place)
                means, spreads = [np.mean(cells[b.name]) for b in there], [np.std(cells[b.name]) for b in there]
                axis.errorbar([place(b) for b in there], means, spreads, marker="o", capsize=3, label=kind)
            ticks = sorted(place(b) for b in chosen)
            axis.set(xscale="log", xlabel=title, ylabel="f-mIoU")
            axis.set_xticks(ticks, [f"{t:g}" for t in ticks], minor=False)
            axis.set_xticks([], minor=True)
            axis.grid(alpha=0.3)
        shared_legend(axes)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.label_efficiency", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--model", required=True, help="pretrained model: a folder, or the name of a shipped one")
    parser.add_argument("--data", type=Path, required=True, help="prepared scenes, <subset>/<scene>/")
    parser.add_argument("--train-subset", default="train")
    parser.add_argument("--subset", default="test", help="scenes to label (default test)")
    parser.add_argument("--classes", help="file with a class a line (default: the classes that the scenes name)")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs, table and curve")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--fractions", type=float, nargs="*", default=list(FRACTIONS), help="shares of the scenes")
    parser.add_argument("--points", type=int, nargs="*", default=list(POINTS), help="labelled points of each scene")
    parser.add_argument("--few", nargs="*", choices=KINDS, help="kinds that also learn from few labels (default all)")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-scenes", type=int, default=4)
    parser.add_argument("--max-points", type=int, default=25_000, help="crop of a scene in an update")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    a = make_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    everything = Labels()
    few = [*(Labels(fraction=f) for f in a.fractions), *(Labels(points=p) for p in a.points)]
    with_few = [kind for kind in a.kinds if a.few is None or kind in a.few]
    runs = [*make_runs(a.kinds, [everything], a.seeds, a), *make_runs(with_few, few, a.seeds, a)]
    run_all(runs, a.jobs)
    budgets = [*few[: len(a.fractions)], everything, *few[len(a.fractions) :]]
    found = summary(collect(runs))
    with atomic_path(a.out / "label_efficiency.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with atomic_path(a.out / "label_efficiency.md") as temporary:
        temporary.write_text(markdown(found, budgets), encoding="utf-8")
    draw(found, budgets, a.out / "label_efficiency.png")
    print(markdown(found, budgets))


if __name__ == "__main__":
    run_command(main)
