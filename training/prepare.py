"""``python -m training.prepare``: a data set as prepared scenes to pretrain on.

Each scene becomes Gaussians (those that come with it, or from RGB-D frames by the online map, or from posed images by a
photometric fit), with the features of 2D teachers lifted onto them and ground truth carried to them, written as
``<out>/<subset>/<scene>/*.npy`` in the layout of the SceneSplat releases.

  python -m training.prepare scannet data/scannet --list
  python -m training.prepare scannet data/scannet --out prepared --subset train val --teachers embedded --workers 2
  python -m training.prepare scannetpp data/scannetpp --out prepared --gaussians fit --chunk-size 6 \\
      --teachers gen+obj=embedded,lang=open_clip:ViT-B-16-SigLIP2-512:webli --ray-address auto

Teachers are named as chorus_core.teachers.load_teacher has it. HEADS=SPEC uses only these heads (gen+obj=embedded), or
gives a single one another name (enet=enet:FILE), as no two teachers may teach the same head.

Scenes are Ray tasks: on this machine, or on the cluster at --ray-address, where data set, output and model files must
lie under the same paths on every machine. --workers 0 does without Ray. A run that was stopped or killed goes on where
it was when started again with the same options: finished scenes are skipped, and what was made of the others is used.
A scene that fails does not stop the run; the exit code is then 1, and <out>/.prepare/report.json has the reasons.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from chorus_core.config import ConfigError, flatten, options, parse
from chorus_core.io.atomic import atomic_path
from chorus_core.io.documents import parse_yaml, read_yaml
from training.command_line import run_command
from training.datasets.base import DatasetError, SceneSource
from training.datasets.registry import DATASETS, open_dataset
from training.preparation.config import PrepareConfig
from training.preparation.jobs import DONE, FAILED, SKIPPED, SceneJob, SceneReport, prepare_job
from training.preparation.scene import WORK
from training.preparation.tasks import RayMissingError, RayOptions, run_here, run_on_ray

logger = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when every scene is there, 1 when some failed, 130 after Ctrl-C."""
    parser = make_parser()
    a = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = read_config(a)
        extra = dataset_options(a.dataset_option)
        sources = choose(open_dataset(a.dataset, a.root, **dict(extra)), a.subset, a.scenes)
    except (ConfigError, DatasetError) as error:
        parser.error(str(error))
    if a.list:
        show(sources)
        return 0
    if a.out is None:
        parser.error("--out is needed, unless --list is given")
    # Workers may have another working directory.
    root, out = str(a.root.resolve()), str(a.out.resolve())
    teachers = teacher_specs(a.teachers)
    jobs = [SceneJob(a.dataset, root, extra, s.subset, s.name, out, teachers, config) for s in sources]
    workers = a.workers if a.workers is not None else int(a.ray_address is None)
    if not workers and a.ray_address is None:
        stream = run_here(jobs, lambda job: prepare_job(job, progress=True))
    else:
        gpus = float(config.torch_device.type == "cuda") if a.gpus_per_scene is None else a.gpus_per_scene
        stream = run_on_ray(jobs, prepare_job, RayOptions(a.ray_address, workers, a.cpus_per_scene, gpus))
    reports: list[SceneReport] = []
    try:
        follow(stream, len(jobs), reports)
    except KeyboardInterrupt:
        stream.close()
        logger.warning("stopped; run again with the same options to go on")
        return INTERRUPTED
    except (RayMissingError, ConnectionError) as error:
        parser.error(str(error))
    finally:
        write_report(a.out, reports)
    failures = [r for r in reports if r.status == FAILED]
    for report in failures:
        logger.error("%s failed: %s", report.name, report.reason)
    return 1 if failures else 0


def follow(stream: Iterable[SceneReport], total: int, reports: list[SceneReport]) -> None:
    """Collect reports as they come, with a bar that counts how they ended."""
    counts: Counter[str] = Counter()
    with logging_redirect_tqdm(), tqdm(total=total, desc="scenes", unit="scene", disable=None) as bar:
        for report in stream:
            reports.append(report)
            counts[report.status] += 1
            bar.set_postfix({status: counts[status] for status in (DONE, FAILED, SKIPPED)})
            bar.update()
            logger.info("%s %s in %.1f s", report.name, report.status, report.seconds)


def write_report(out: Path, reports: Sequence[SceneReport]) -> None:
    """How every scene of this run ended, by name."""
    with atomic_path(out / WORK / "report.json") as temporary:
        rows = [asdict(report) for report in sorted(reports, key=lambda r: r.name)]
        temporary.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def choose(sources: Sequence[SceneSource], subsets: Sequence[str], names: Sequence[str]) -> list[SceneSource]:
    """The scenes of some subsets, or those named; all where nothing is said.

    Raises:
        DatasetError: a subset or scene that there is not.
    """
    for wanted, there, what in (
        (subsets, {s.subset for s in sources}, "subset"),
        (names, {s.name for s in sources}, "scene"),
    ):
        if missing := sorted(set(wanted) - there):
            known = ", ".join(sorted(there)[:20])
            raise DatasetError(f"{what} {missing[0]!r}: not in the data set; there are {known or 'none'}")
    return [s for s in sources if (not subsets or s.subset in subsets) and (not names or s.name in names)]


def show(sources: Sequence[SceneSource]) -> None:
    """A line a scene: where it belongs and what it has."""
    for source in sources:
        depth = " with depth" if source.images and source.images[0].depth is not None else ""
        has = [f"{len(source.images)} images{depth}"]
        has += ["Gaussians"] if source.gaussians is not None else []
        has += ["labels"] if source.labels is not None else []
        sys.stdout.write(f"{source.subset}/{source.name}: {', '.join(has)}\n")
    sys.stdout.write(f"{len(sources)} scenes\n")


def teacher_specs(values: Sequence[str]) -> tuple[str, ...]:
    """Specs from options that may each hold several, separated by commas."""
    return tuple(spec for value in values for spec in value.split(",") if spec)


def dataset_options(values: Sequence[str]) -> tuple[tuple[str, Any], ...]:
    """Options of the data set's reader from ``name=value``, the value as YAML reads it.

    Raises:
        ConfigError: not of that form.
    """
    found: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--dataset-option {text!r}: expected name=value")
        read = parse_yaml(value, f"--dataset-option {name}", error=ConfigError)
        found[name] = tuple(read) if isinstance(read, list) else read
    return tuple(sorted(found.items()))


def read_config(a: argparse.Namespace) -> PrepareConfig:
    """The configuration from --config and the options beside it, which win.

    Raises:
        ConfigError: an unreadable file, an unknown key, or a value out of range.
    """
    tree: dict[str, Any] = {}
    if a.config is not None:
        try:
            tree = flatten(read_yaml(a.config, error=ConfigError))
        except OSError as error:
            raise ConfigError(f"{a.config}: {error.strerror}") from error
    given = {o.name: getattr(a, o.name) for o in options(PrepareConfig) if hasattr(a, o.name)}
    return parse(PrepareConfig, tree | given)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.prepare",
        usage="%(prog)s DATASET ROOT --out OUT [options]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", choices=DATASETS, metavar="dataset", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("root", type=Path, help="its folder")
    parser.add_argument("--out", type=Path, help="root of the prepared data set")
    parser.add_argument("--list", action="store_true", help="show the scenes and what they have; do nothing")
    parser.add_argument("--subset", nargs="+", default=[], help="subsets to prepare, such as train val (default: all)")
    parser.add_argument("--scenes", nargs="+", default=[], metavar="NAME", help="only these scenes")
    parser.add_argument(
        "--dataset-option", nargs="+", default=[], metavar="NAME=VALUE", help="options of the data set's reader"
    )
    parser.add_argument(
        "--teachers", nargs="+", default=["embedded"], metavar="SPEC",
        help="2D teachers, see above; also several with commas (default: embedded)",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, help="YAML file of the options below, by their dotted names")
    ray = parser.add_argument_group("workers")
    ray.add_argument(
        "--workers", type=_count, default=1, help="scenes at a time; 0 = one, in this process, without Ray"
    )
    ray.add_argument("--ray-address", help="a Ray cluster, 'auto' for this machine's (default: Ray on this machine)")
    ray.add_argument("--cpus-per-scene", type=float, default=1.0, help="reserved for each scene (default 1)")
    ray.add_argument(
        "--gpus-per-scene",
        type=float,
        help="reserved for each scene; fractions share a GPU (default: 1 with CUDA, else 0)",
    )
    groups: dict[str, Any] = {"": parser.add_argument_group("preparation")}
    for item in options(PrepareConfig):
        section = item.name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        default = "" if item.default == "" else f" (default {item.default})"
        kind = {"action": argparse.BooleanOptionalAction} if item.type is bool else {"type": item.type}
        if item.choices:
            kind["choices"] = item.choices
        elif item.type is not bool:
            kind["metavar"] = item.type.__name__.upper()
        text = (item.help + default).replace("%", "%%")
        groups[section].add_argument(_flag(item.name), dest=item.name, default=argparse.SUPPRESS, help=text, **kind)
    return parser


def _flag(name: str) -> str:
    """``--max-width`` of "lift.max_width", ``--fit-steps`` of "fit.steps"."""
    return "--" + name.removeprefix("lift.").replace(".", "-").replace("_", "-")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value}: expected 0 or more")
    return value


if __name__ == "__main__":
    run_command(main)
