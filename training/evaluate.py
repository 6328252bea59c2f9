"""``python -m training.evaluate``: what a model is worth.

On prepared scenes: ``zero-shot`` and ``instances`` ask with texts, ``probe`` trains on labels; ``agreement`` compares
two labellings. ``photos`` asks a 2D teacher about photographs. ``house`` maps a recording with a labelled surface and
reports label accuracy, "is it there?" and renders; ``scenes`` reports label accuracy on generated test scenes;
``sequence`` reports what needs no ground truth.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from chorus_core.config import Config, parse
from chorus_core.devices import choose_device
from chorus_core.encoder import ChorusEncoder
from chorus_core.frames import RgbdFrame
from chorus_core.io.atomic import atomic_path
from chorus_core.io.bag_arguments import add_bag_arguments, bag_options
from chorus_core.io.rgbd import RgbdSequence, open_sequence
from chorus_core.map_pictures import draw_map
from chorus_core.pipeline import Pipeline
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import Vocabulary
from chorus_core.teachers import load_teacher
from training.command_line import run_command
from training.evaluation import commands as prepared_commands
from training.evaluation.encoded import SceneAccuracy, Unseen, encode_scenes, predict
from training.evaluation.figures import draw_labels, draw_recording
from training.evaluation.label_accuracy import label_accuracy
from training.evaluation.presence import Answer, ask, object_gap
from training.evaluation.recording import hold_out, map_recording, render_quality
from training.evaluation.second_opinion import ask_teacher
from training.evaluation.surface import LabelledSurface
from training.language import LanguageTargets, absent_words
from training.probes import command as probe_command
from training.scenes.assets import AssetLibrary, Split

logger = logging.getLogger(__name__)


def build_pipeline(model: Path, voxel_size: float, vocabulary: str, device: str = "auto") -> Pipeline:
    """The pipeline as a robot would run it, at its defaults but for what is given."""
    options = {
        "map.voxel_size": voxel_size,
        "encoder.checkpoint": str(model),
        "encoder.device": device,
        "device": device,
        "semantics.vocabulary": vocabulary,
        "semantics.object_gap": object_gap(voxel_size),
    }
    return Pipeline(parse(Config, options))


def open_recording(a: argparse.Namespace, upright: bool = False) -> RgbdSequence:
    """What ``--sequence`` names, or the bag in it."""
    inner = a.sequence / "bag"
    return open_sequence(inner if inner.is_dir() else a.sequence, bag_options(a), upright)


def evaluate_recording(
    a: argparse.Namespace, sequence: RgbdSequence
) -> tuple[dict[str, Any], Pipeline, list[RgbdFrame]]:
    """Counts, stage times and renders of a recording; also the pipeline and the frames held out."""
    pipeline = build_pipeline(a.model, a.voxel, a.vocabulary, a.device)
    held_out = hold_out(len(sequence), a.views)
    frames = map_recording(pipeline, sequence, held_out)
    report: dict[str, Any] = {
        "model": pipeline.encoder.description.get("name", a.model.name),
        "voxel_size": a.voxel,
        "frames": len(sequence) - len(held_out),
        "frames_held_out": held_out,
        "gaussians": len(pipeline.labelled_map()),
        "threshold": pipeline.semantics.text.threshold,
    }
    report["renders"] = asdict(render_quality(pipeline.labelled_map().gaussians, frames))
    return report, pipeline, frames


def evaluate_house(a: argparse.Namespace) -> dict[str, Any]:
    surface = LabelledSurface.load(a.sequence)
    report, pipeline, frames = evaluate_recording(a, open_recording(a))
    reach = 2 * a.voxel
    report["labels"] = {a.vocabulary: label_accuracy(pipeline.labelled_map(), surface, reach)}
    draw_recording(a.out, pipeline.labelled_map(), surface, frames[2 :: max(1, len(frames) // 4)], reach)
    absent = ask(pipeline, absent_words("test"), surface, reach)
    present = ask(pipeline, surface.labels, surface, reach)
    report["presence"] = presence_report(absent, present, surface)
    for extra in a.also:
        pipeline.set_vocabulary(extra)
        report["labels"][extra] = label_accuracy(pipeline.labelled_map(), surface, reach)
    report["stage_ms"] = pipeline.status().stage_ms
    return report


def presence_report(absent: Sequence[Answer], present: Sequence[Answer], surface: LabelledSurface) -> dict[str, Any]:
    """How often "nothing" was right for absent things, and how often present things were found, and in place."""

    def share(values: Sequence[bool]) -> float:
        return sum(values) / len(values) if values else float("nan")

    seen = [x for x in present if x.text not in surface.held_back]
    held = [x for x in present if x.text in surface.held_back]
    return {
        "absent_answered_nothing": share([x.objects == 0 for x in absent]),
        "absent_words": len(absent),
        "present_found": share([x.objects > 0 for x in present]),
        "present_right": share([x.truth == x.text for x in present]),
        "seen_found": share([x.objects > 0 for x in seen]),
        "seen_right": share([x.truth == x.text for x in seen]),
        "held_back_found": share([x.objects > 0 for x in held]),
        "held_back_right": share([x.truth == x.text for x in held]),
        "absent": {x.text: [x.objects, round(x.score, 3), x.truth] for x in absent},
        "present": {x.text: [x.objects, round(x.score, 3), x.truth] for x in present},
    }


def evaluate_sequence(a: argparse.Namespace) -> dict[str, Any]:
    sequence = open_recording(a, a.upright)
    report, pipeline, frames = evaluate_recording(a, sequence)
    draw_recording(a.out, pipeline.labelled_map(), None, frames[2 :: max(1, len(frames) // 4)], 2 * a.voxel)
    found = ask(pipeline, a.query, None, 2 * a.voxel)
    report["queries"] = {x.text: [x.objects, round(x.score, 3)] for x in found}
    labelled = pipeline.labelled_map()
    counts = np.bincount(labelled.labels[labelled.labels >= 0].cpu().numpy(), minlength=len(labelled.vocabulary))
    order = [int(i) for i in np.argsort(-counts, kind="stable")[:20] if counts[i]]
    report["labels"] = {labelled.vocabulary.labels[i]: int(counts[i]) for i in order}
    report["stage_ms"] = pipeline.status().stage_ms
    draw_map(pipeline.labelled_map(), pipeline.semantics.text, a.query, a.out)
    if a.second_opinion:
        teacher = load_teacher(a.second_opinion, choose_device(a.device))
        opinion = ask_teacher(pipeline, (sequence[i] for i in range(0, len(sequence), a.opinion_every)), teacher)
        panels = {"encoder": opinion.own, teacher.name: opinion.theirs}
        draw_labels(a.out / "second_opinion.png", labelled.gaussians, panels, opinion.vocabulary)
        report["second_opinion"] = {"teacher": teacher.name, **opinion.report()}
    return report


def evaluate_scenes(a: argparse.Namespace) -> dict[str, Any]:
    bank = LanguageTargets.load(a.bank)
    split = Split.make(library := AssetLibrary(a.assets), a.split_seed)
    encoder = ChorusEncoder.from_pretrained(a.model, a.device)
    text = TextSide.of(encoder)
    names = text.embed_labels(Vocabulary(bank.names))
    accuracy = SceneAccuracy(bank.names, Unseen.of(split, split.trained_categories(library), bank))
    for scene in encode_scenes(encoder, a.scenes, a.subset, bank, text.head):
        accuracy.add(scene, predict(text.project_features(scene.features), names))
    return {"vocabulary": len(bank.names), "subset": a.subset, **accuracy.report()}


def write_report(path: Path, report: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--model", type=Path, required=True, help="a model folder, or a shipped model")
    shared.add_argument("--out", type=Path, required=True, help="folder for report and pictures")
    shared.add_argument("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    recording = argparse.ArgumentParser(add_help=False)
    recording.add_argument("--sequence", type=Path, required=True, help="recording, as chorus_core.io opens it")
    recording.add_argument("--voxel", type=float, default=0.05, help="voxel size of the map, metres")
    recording.add_argument("--views", type=int, default=20, help="frames held out to judge renders by")
    add_bag_arguments(recording)
    house = commands.add_parser("house", parents=[shared, recording], help="a recording with a labelled surface")
    house.add_argument("--vocabulary", default="house", help="labels to choose from")
    house.add_argument("--also", nargs="*", default=["indoor"], help="further vocabularies to label with")
    house.set_defaults(run=evaluate_house)
    sequence = commands.add_parser("sequence", parents=[shared, recording], help="a recording without ground truth")
    sequence.add_argument("--vocabulary", default="indoor", help="labels to choose from")
    sequence.add_argument("--upright", action="store_true", help="find the vertical first; for hand-held recordings")
    sequence.add_argument("--query", nargs="*", default=[], help="texts to ask for")
    sequence.add_argument(
        "--second-opinion", metavar="TEACHER", help="also lift this closed-set teacher (enet:FILE) and compare labels"
    )
    sequence.add_argument("--opinion-every", type=int, default=5, help="step between the frames it sees")
    sequence.set_defaults(run=evaluate_sequence)
    scenes = commands.add_parser("scenes", parents=[shared], help="generated scenes")
    scenes.add_argument("--scenes", type=Path, required=True, help="folder of scenes")
    scenes.add_argument("--subset", default="test", choices=("val", "test"))
    scenes.add_argument("--bank", type=Path, required=True, help="language bank (training.language)")
    scenes.add_argument("--assets", type=Path, required=True, help="asset folder, for what is held back")
    scenes.add_argument("--split-seed", type=int, default=0)
    scenes.set_defaults(run=evaluate_scenes)
    prepared_commands.add_commands(commands)
    probe_command.add_command(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    report = options.run(options)
    path = options.out / f"{getattr(options, 'name', None) or options.command}.json"
    write_report(path, report)
    if show := getattr(options, "show", None):
        show(report)
        print(path)
    else:
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    run_command(main)
