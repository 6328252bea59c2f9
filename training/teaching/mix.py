"""``python -m training.teaching.mix``: choose how much of a teacher's "lang" is what its ImageNet classifier says.

Renders cannot choose it: there the learned part is right nearly always, since it has seen the models of the rooms.
So photographs do (``training.evaluate photos``), by the mean of AUROC and closed-set recall, among the mixtures that
still know rendered rooms well enough (``--least-f-miou``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import read_json
from chorus_core.teachers.embedded import EmbeddedTeacher, layout_on, load_embedded_net, write_embedded
from chorus_core.teachers.embedded_net import EmbeddedConfig, EmbeddedNet
from training.command_line import run_command
from training.evaluation.photos import Photograph, evaluate_photographs, read_photographs
from training.language import LanguageTargets
from training.teach import validate
from training.teaching.view_store import ViewStore

logger = logging.getLogger(__name__)

SHARES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
POWERS = (2.0, 3.0)
HALVES = (1.0, 30.0)


def mixtures(
    config: EmbeddedConfig, shares: Sequence[float], powers: Sequence[float], halves: Sequence[float]
) -> Iterator[EmbeddedConfig]:
    """The configuration with each of the values that make a difference to it."""
    if config.encoder == "residual":
        yield config
        return
    for share, power, half in itertools.product(shares, powers, halves):
        if share or (power, half) == (powers[0], halves[0]):  # without the classifier the others say nothing
            yield replace(config, class_share=share, class_power=power, class_half=half)


class Rooms:
    """Rendered rooms that a mixture is looked at in, too."""

    def __init__(self, scenes: Path, bank: Path, trained: Path, device: torch.device) -> None:
        self.bank = LanguageTargets.load(bank, device)
        names = set(read_json(trained, kind=list))
        self.trained = torch.tensor([c in names for c in self.bank.categories], device=device)
        self.store = ViewStore(scenes, "val", device)
        self.store.refresh(wait=True)

    def judge(self, net: EmbeddedNet) -> dict[str, float]:
        """Labels of cells by the nearest trained name, as ``training.teach`` validates."""
        return {k: v for k, v in validate(net, self.store, self.bank, self.trained).items() if k != "val.classes"}


def judge(
    net: EmbeddedNet,
    config: EmbeddedConfig,
    photographs: Sequence[Photograph],
    rooms: Rooms | None,
    device: torch.device,
) -> dict[str, float]:
    """One row of the table: a mixture's figures on photographs, and on rendered rooms where there are any."""
    net.config = config
    found = evaluate_photographs(photographs, EmbeddedTeacher(net, "mix", device))
    row = {"share": config.class_share, "power": config.class_power, "half": config.class_half}
    row |= {"auroc": found["auroc"], "recall": found["recall"]}
    row |= {f"furnishings.{k}": found["furnishings"][k] for k in ("auroc", "recall")}
    return row | (rooms.judge(net) if rooms else {})


def best(rows: Sequence[dict[str, float]], least_f_miou: float = 0.0) -> dict[str, float]:
    """The row with the highest mean of AUROC and recall on photographs.

    Args:
        least_f_miou: rows below it on rendered rooms do not count.

    Raises:
        ValueError: no row is left.
    """
    kept = [row for row in rows if row.get("val.f_miou", math.inf) >= least_f_miou]
    if not kept:
        raise ValueError(f"no mixture reaches f-mIoU {least_f_miou} on the rooms")
    return max(kept, key=lambda row: row["auroc"] + row["recall"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.teaching.mix", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--teacher", type=Path, required=True, help="teacher folder")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--labels", type=Path, required=True, help="folder of their outlines")
    parser.add_argument("--out", type=Path, required=True, help="teacher folder to write, with mix.json")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--powers", type=float, nargs="+", default=POWERS)
    parser.add_argument("--halves", type=float, nargs="+", default=HALVES)
    parser.add_argument("--val-scenes", type=Path, help="validation rooms with views, to report on beside")
    parser.add_argument("--bank", type=Path, help="language bank, with --val-scenes")
    parser.add_argument("--trained-categories", type=Path, help="JSON list of names to choose from, with --val-scenes")
    parser.add_argument("--least-f-miou", type=float, default=0.0, help="on the validation rooms, of what is chosen")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if a.val_scenes and not (a.bank and a.trained_categories):
        parser.error("--val-scenes needs --bank and --trained-categories")
    device = torch.device(a.device)
    rooms = Rooms(a.val_scenes, a.bank, a.trained_categories, device) if a.val_scenes else None
    photographs = list(read_photographs(a.images, a.labels))
    net = load_embedded_net(a.teacher).eval().requires_grad_(False).to(device, memory_format=layout_on(device))
    configs = list(mixtures(net.config, a.shares, a.powers, a.halves))
    rows = []
    for config in configs:
        rows.append(judge(net, config, photographs, rooms, device))
        logger.info("%s", {k: round(v, 4) for k, v in rows[-1].items()})
    chosen = best(rows, a.least_f_miou)
    net.config = configs[rows.index(chosen)]
    description = {k: v for k, v in read_json(a.teacher / "config.json").items() if k not in ("teacher", "sha256")}
    write_embedded(a.out, net, {**description, "name": a.out.name, "mix": chosen})
    with atomic_path(a.out / "mix.json") as temporary:
        temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
