"""The command ``probe`` of ``python -m training.evaluate``."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

from chorus_core.devices import choose_device
from chorus_core.encoder.checkpoint import read_model
from training.evaluation.class_groups import groups_for
from training.evaluation.commands import class_names, scene_options, structure_of
from training.evaluation.prepared_scenes import load_scenes
from training.evaluation.tables import show_segmentation
from training.prepared import prepared_scenes
from training.probes.config import KINDS, ProbeConfig
from training.probes.probe import evaluate_probe
from training.probes.selection import choose_scenes, keep_points
from training.probes.train import train_probe


def add_command(commands: Any) -> None:
    """Add ``probe`` to the evaluator's subparsers."""
    d = ProbeConfig()
    probe = commands.add_parser("probe", parents=[scene_options()], help="train on labels, evaluate on prepared scenes")
    probe.add_argument("--kind", required=True, choices=KINDS, help="what learns; see docs/evaluation.md")
    probe.add_argument("--train-subset", default="train", help="subset to learn from (default train)")
    probe.add_argument("--steps", type=int, default=d.steps)
    probe.add_argument(
        "--seed", type=int, default=d.seed, help="of weights, batches, and the choice of scenes and points"
    )
    probe.add_argument("--batch-scenes", type=int, default=d.batch_scenes, help="scenes of an update")
    probe.add_argument("--max-points", type=int, default=d.max_points, help="Gaussians that a scene is cropped to")
    probe.add_argument("--learning-rate", type=float, default=d.learning_rate, help="blocks take a tenth")
    probe.add_argument("--lovasz", type=float, default=d.lovasz, help="weight of the Lovasz loss")
    probe.add_argument("--scene-fraction", type=float, default=1.0, help="share of the scenes to learn from")
    probe.add_argument("--points-per-scene", type=int, help="labelled Gaussians of a scene to learn from (default all)")
    probe.add_argument(
        "--upstream-vote", action="store_true", help="also score the vote within TRUE instances (a leak)"
    )
    probe.set_defaults(run=_probe, show=show_segmentation)


def _probe(a: argparse.Namespace) -> dict[str, Any]:
    device = choose_device(a.device)
    held_out, pool = prepared_scenes(a.data, a.subset), prepared_scenes(a.data, a.train_subset)
    names = class_names(a.classes, pool + held_out)
    chosen = choose_scenes(pool, a.scene_fraction, a.seed)
    scenes = []
    for found in load_scenes(chosen, names):
        segment = keep_points(found.scene.segment, a.points_per_scene, found.folder.name, a.seed)
        scenes.append(replace(found.scene, segment=segment))
    model, description, _ = read_model(a.model)
    config = ProbeConfig(
        steps=a.steps, seed=a.seed, batch_scenes=a.batch_scenes, learning_rate=a.learning_rate,
        block_rate=a.learning_rate / 10, lovasz=a.lovasz, max_points=a.max_points,
    )  # fmt: skip
    began = time.perf_counter()
    probe = train_probe(a.kind, model, scenes, names, config, device)
    seconds = time.perf_counter() - began
    score = evaluate_probe(
        probe, load_scenes(held_out, names), groups_for(names, a.groups), structure_of(a), a.upstream_vote
    )
    return {
        "model": description.get("name", str(a.model)) if a.kind != "scratch" else "random weights",
        "kind": a.kind,
        "data": str(a.data),
        "subset": a.subset,
        "train_subset": a.train_subset,
        "train_scenes": [folder.name for folder in chosen],
        "train_labels": sum(int((scene.segment >= 0).sum()) for scene in scenes),
        "scene_fraction": a.scene_fraction,
        "points_per_scene": a.points_per_scene,
        "steps": a.steps,
        "seed": a.seed,
        "train_seconds": round(seconds, 1),
        "last_loss": probe.losses[-1],
        **score,
    }
