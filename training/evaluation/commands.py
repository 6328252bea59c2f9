"""The commands of ``python -m training.evaluate`` that ask prepared scenes with texts, ``agreement``, ``photos``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chorus_core.devices import choose_device
from chorus_core.encoder import ChorusEncoder
from chorus_core.semantics.text_side import TextSide
from chorus_core.semantics.vocabulary import load_vocabulary
from chorus_core.teachers import load_teacher
from training.evaluation.agreement import class_agreement, read_labels
from training.evaluation.class_groups import groups_for
from training.evaluation.open_instances import NOT_INSTANCES, ProposalConfig, evaluate_instances
from training.evaluation.photos import evaluate_photographs, read_photographs
from training.evaluation.prepared_scenes import load_scenes, scene_classes
from training.evaluation.segmentation import OTHER_FURNITURE, SegmentationScore
from training.evaluation.tables import show_agreement, show_instances, show_photographs, show_segmentation
from training.evaluation.zero_shot import (
    PROMPT,
    FeatureSource,
    class_texts,
    encoded_features,
    evaluate_zero_shot,
    lifted_features,
)
from training.metrics import STRUCTURE
from training.prepared import prepared_scenes

OUT = Path("out/evaluation")


def report_options() -> argparse.ArgumentParser:
    """Where a command of this folder writes to."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--out", type=Path, default=OUT, help=f"folder for the report (default {OUT})")
    options.add_argument("--name", help="of the report's file (default: the command's)")
    return options


def scene_options() -> argparse.ArgumentParser:
    """What every command on prepared scenes takes."""
    options = argparse.ArgumentParser(add_help=False, parents=[report_options()])
    options.add_argument("--model", required=True, help="model folder, name of a shipped model, or released file")
    options.add_argument("--data", type=Path, required=True, help="folder of prepared scenes, <subset>/<scene>/")
    options.add_argument("--subset", default="val", help="which of them to evaluate on (default val)")
    options.add_argument("--classes", help="file with a class a line (default: the classes that the scenes name)")
    options.add_argument(
        "--groups", type=Path, help="YAML of group to class names (default: ScanNet200's, where it fits)"
    )
    options.add_argument("--exclude-other", action="store_true", help='foreground leaves out "other furniture" as well')
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return options


def class_names(file: str | None, folders: list[Path]) -> tuple[str, ...]:
    """The classes of a file, or those that scenes name."""
    return load_vocabulary(file).labels if file else scene_classes(folders)


def structure_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Classes that foreground means leave out."""
    return (*STRUCTURE, *OTHER_FURNITURE) if options.exclude_other else STRUCTURE


def add_commands(commands: Any) -> None:
    """Add ``zero-shot``, ``instances``, ``agreement`` and ``photos`` to the evaluator's subparsers."""
    texts = argparse.ArgumentParser(add_help=False, parents=[scene_options()])
    texts.add_argument("--prompt", nargs="+", default=[PROMPT], help=f"sentences around the label (default {PROMPT!r})")
    texts.add_argument("--smoothing", type=int, default=0, help="rounds of averaging over neighbouring voxels")
    texts.add_argument(
        "--lifted", action="store_true", help="use the scenes' lifted 2D features, not the 3D encoder (the baseline)"
    )

    zero_shot = commands.add_parser(
        "zero-shot", parents=[texts], help="semantic segmentation of prepared scenes by text"
    )
    zero_shot.add_argument(
        "--upstream-vote", action="store_true", help="also score the vote within TRUE instances, which leaks labels"
    )
    zero_shot.add_argument("--neighbours", type=int, default=25, help="Gaussians that vote for a ground-truth point")
    zero_shot.set_defaults(run=_zero_shot, show=show_segmentation)

    instances = commands.add_parser("instances", parents=[texts], help="open-vocabulary instances of prepared scenes")
    instances.add_argument(
        "--proposals", default="segmentation", choices=("segmentation", "features", "file"),
        help="components of the predicted classes, of like features, or proposals.npy of each scene",
    )  # fmt: skip
    instances.add_argument(
        "--gap", type=float, default=0.0, help="metres between neighbours (default: by the map's voxel)"
    )
    instances.add_argument("--similarity", type=float, default=0.9, help="cosine of like features")
    instances.add_argument("--min-points", type=int, default=ProposalConfig.min_points, help="of an instance")
    instances.add_argument("--not-instances", nargs="*", default=list(NOT_INSTANCES), help="classes that are no things")
    instances.set_defaults(run=_instances, show=show_instances)

    agreement = commands.add_parser(
        "agreement", parents=[report_options()], help="two labellings of the same Gaussians"
    )
    agreement.add_argument("--a", type=Path, required=True, help=".npy of class indices, -1 = none")
    agreement.add_argument("--b", type=Path, required=True, help="the second opinion")
    agreement.add_argument("--classes", required=True, help="file with a class a line")
    agreement.set_defaults(run=_agreement, show=show_agreement)

    photos = commands.add_parser(
        "photos", parents=[report_options()], help="a 2D teacher on photographs with outlines of COCO's things"
    )
    photos.add_argument("--images", type=Path, required=True, help="folder of photographs")
    photos.add_argument("--labels", type=Path, required=True, help="folder of outlines, <name of a photograph>.txt")
    photos.add_argument("--teacher", default="embedded", help="as chorus_core.teachers.load_teacher has it")
    photos.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    photos.set_defaults(run=_photos, show=show_photographs)


def _zero_shot(a: argparse.Namespace) -> dict[str, Any]:
    asked = _Asked(a)
    score = SegmentationScore(asked.names, asked.groups, structure_of(a), a.neighbours, a.upstream_vote)
    scenes = load_scenes(asked.folders, asked.names, asked.lifted_heads)
    return {**asked.facts, **evaluate_zero_shot(scenes, asked.features, asked.texts, score)}


def _instances(a: argparse.Namespace) -> dict[str, Any]:
    asked = _Asked(a)
    config = ProposalConfig(a.proposals, a.gap, a.similarity, a.min_points)
    scenes = load_scenes(asked.folders, asked.names, asked.lifted_heads)
    found = evaluate_instances(
        scenes, asked.features, asked.texts, asked.names, config, asked.groups, frozenset(a.not_instances)
    )
    return {**asked.facts, "proposals": a.proposals, **found}


def _agreement(a: argparse.Namespace) -> dict[str, Any]:
    return class_agreement(read_labels(a.a), read_labels(a.b), load_vocabulary(a.classes).labels)


def _photos(a: argparse.Namespace) -> dict[str, Any]:
    teacher = load_teacher(a.teacher, choose_device(a.device))
    return {"teacher": teacher.name, **evaluate_photographs(read_photographs(a.images, a.labels), teacher)}


class _Asked:
    """What the commands that ask with texts share: scenes, classes and the features to compare."""

    def __init__(self, a: argparse.Namespace) -> None:
        self.folders = prepared_scenes(a.data, a.subset)
        self.names = class_names(a.classes, self.folders)
        self.groups: Mapping[str, frozenset[str]] = groups_for(self.names, a.groups)
        encoder = ChorusEncoder.from_pretrained(a.model, choose_device(a.device))
        text = TextSide.of(encoder)
        self.texts = class_texts(text, self.names, a.prompt)
        self.lifted_heads = (text.head,) if a.lifted else ()
        self.features: FeatureSource = (
            lifted_features(text.head) if a.lifted else encoded_features(encoder, text.head, a.smoothing)
        )
        self.facts = {
            "model": encoder.description.get("name", str(a.model)),
            "features": "lifted from 2D" if a.lifted else "3D encoder",
            "data": str(a.data),
            "subset": a.subset,
            "prompt": a.prompt,
            "smoothing": 0 if a.lifted else a.smoothing,
        }
