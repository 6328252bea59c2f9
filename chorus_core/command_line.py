"""``python -m chorus_core map|encode|query|info``: the pipeline without ROS, on folders, bags and ``.ply`` files."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from chorus_core import config as configuration
from chorus_core.config import Config
from chorus_core.devices import choose_device
from chorus_core.encoder import ChorusEncoder
from chorus_core.encoder.checkpoint import shipped_models
from chorus_core.encoder.features import OrientedPoints, encode_features
from chorus_core.encoder.hub import is_hub_name
from chorus_core.encoder.normals import complete_normals
from chorus_core.io.any_scene import FORMS, is_scene, load_any_scene
from chorus_core.io.atomic import check_target
from chorus_core.io.bag_arguments import add_bag_arguments, bag_options
from chorus_core.io.documents import parse_yaml
from chorus_core.io.feature_file import save_features
from chorus_core.io.gaussian_ply import load_origin
from chorus_core.io.map_file import features_path, load_map, save_map
from chorus_core.io.rgbd import BagOptions, open_sequence
from chorus_core.io.scene import PointCloud, Scene, SceneError
from chorus_core.pipeline import Pipeline
from chorus_core.recorded_map import check_map_path, map_recording
from chorus_core.saved_map import open_saved_map
from chorus_core.scene_rows import Choice, choose_rows
from chorus_core.semantics.query import QueryResult


def build_map(arguments: argparse.Namespace, config: Config) -> None:
    """A sequence to a labelled map."""
    check_map_path(arguments.out)
    sequence = open_sequence(arguments.path, bag_options(arguments), arguments.upright)
    print(map_recording(arguments.path, sequence, arguments.out, config, arguments.bare, arguments.onto))


def encode_scene(arguments: argparse.Namespace, config: Config) -> None:
    """A scene of any form to a labelled map (``.ply``), or to the bare features of its rows (``.safetensors``)."""
    if arguments.grid is not None and not 0 < arguments.grid < math.inf:
        raise ValueError(f"--grid {arguments.grid:g}: expected metres above 0")
    if arguments.out is not None:
        _check_encoded_path(arguments.out, arguments.path)
    scene = load_any_scene(arguments.path, arguments.drop_bad or arguments.drop_outliers)
    points = isinstance(scene.content, PointCloud)
    out: Path = arguments.out or _beside(arguments.path, ".features.safetensors" if points else ".chorus.ply")
    check_target(out)
    if points and out.suffix == ".ply":
        raise ValueError(f"{arguments.path} holds points: a labelled map needs Gaussians")
    write = _write_map if out.suffix == ".ply" else _write_features
    choice = write(out, scene, arguments, config)
    print(f"{out}: {int(choice.rows.sum())} {'points' if points else 'Gaussians'} encoded{choice}")


def _check_encoded_path(out: Path, scene: Path) -> None:
    if out.resolve() == scene.resolve():
        raise ValueError(f"--out {out} is the input: it would lose its other columns (spherical harmonics, say)")
    if out.suffix not in (".ply", ".safetensors"):
        raise ValueError(f"--out {out}: expected NAME.ply (a labelled map) or NAME.safetensors (features)")
    check_target(out)


def _beside(scene: Path, ending: str) -> Path:
    """A name for what is made of a scene. A point in the name of a folder begins no suffix: room_1.5, room_1.6."""
    if scene.is_dir():
        scene = scene.resolve()  # "." has no name
        return scene.with_name(f"{scene.name}{ending}")
    return scene.with_suffix(ending)


def _write_map(out: Path, scene: Scene, arguments: argparse.Namespace, config: Config) -> Choice:
    pipeline = Pipeline(config)
    size = arguments.grid or config.encoder.grid_size or pipeline.encoder.grid_size
    choice = _choose(scene, size, arguments, config)
    labelled = pipeline.label(scene.content[choice.rows], size)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_map(out, labelled, pipeline.model_reference, scene.origin)
    return choice


def _write_features(out: Path, scene: Scene, arguments: argparse.Namespace, config: Config) -> Choice:
    options = config.encoder
    encoder = ChorusEncoder.from_pretrained(options.checkpoint, choose_device(options.device))
    head = None if arguments.head == "none" else arguments.head
    if head is not None and head not in encoder.model.config.heads:
        raise ValueError(f"--head {head}: the model has {', '.join(sorted(encoder.model.config.heads))}, or none")
    size = arguments.grid or options.grid_size or encoder.grid_size
    choice = _choose(scene, size, arguments, config)
    chosen = scene.content[choice.rows]
    if isinstance(chosen, PointCloud):
        chosen = OrientedPoints(chosen.points, chosen.colors, complete_normals(chosen.points, chosen.normals))
    found = encode_features(encoder, chosen, replace(options, smoothing=0), head=head, grid_size=size)
    kept = scene.kept.clone()
    kept[scene.kept] = choice.rows
    features = torch.zeros((len(kept), encoder.width(head)), dtype=torch.float16)
    features[kept] = found.cpu()
    facts = {
        "scene": arguments.path.name,
        "model": encoder.description.get("name", options.checkpoint),
        "sha256": encoder.description.get("sha256", ""),
        "head": arguments.head,
        "grid_size": size,
        "per_voxel": options.per_voxel,
        "origin": scene.origin.tolist(),
        "left_out": choice.left_out,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_features(out, features, kept, facts)
    return choice


def _choose(scene: Scene, grid_size: float, arguments: argparse.Namespace, config: Config) -> Choice:
    try:
        return choose_rows(scene, grid_size, config.encoder.max_gaussians, arguments.drop_outliers)
    except SceneError as error:
        raise SceneError(f"{arguments.path}: {error}") from error


def query_map(arguments: argparse.Namespace, config: Config) -> None:
    """Ask a saved map."""
    saved = open_saved_map(arguments.path, config.semantics, arguments.model)
    origin = load_origin(arguments.path)
    for text in arguments.text:
        print_answer(saved.query(text, arguments.negative, arguments.threshold, arguments.max_objects), origin)


def show_info(arguments: argparse.Namespace, config: Config) -> None:
    """Facts of a sequence, a map or a checkpoint."""
    path: Path = arguments.path
    table = Table(title=str(path), show_header=False)
    for name, value in _facts(path, bag_options(arguments)):
        table.add_row(name, value)
    Console().print(table)


def print_answer(result: QueryResult, origin: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
    """An answer as a table, with positions in the world whose position of the map's (0, 0, 0) is ``origin``, and the
    number of the map's object that each is, where it is one."""
    title = f'"{result.text}": {len(result.objects)} found in {1e3 * result.seconds:.0f} ms'
    if not result.objects:
        print(f"{title} (nothing in the map reaches {result.threshold:.2f})")
        return
    table = Table("score", "centre x y z (m)", "size x y z (m)", "Gaussians", "object", title=title)
    for item in result.objects:
        placed = [float(value) + offset for value, offset in zip(item.box_center, origin, strict=True)]
        center, size = (" ".join(f"{v:.2f}" for v in values) for values in (placed, item.box_size))
        table.add_row(f"{item.score:.2f}", center, size, str(item.count), str(item.id or "-"))
    Console().print(table)


def _facts(path: Path, bag: BagOptions) -> list[tuple[str, str]]:
    if is_scene(path):
        return _scene_facts(path)
    named = not path.exists() and (str(path) in shipped_models() or is_hub_name(str(path)))
    if named or (path / "config.json").is_file() or path.suffix in (".pth", ".safetensors"):
        encoder = ChorusEncoder.from_pretrained(str(path))
        parameters = sum(p.numel() for p in encoder.model.parameters())
        return [
            ("parameters", f"{parameters / 1e6:.1f} M"),
            *((k, str(v)) for k, v in encoder.model.config.to_dict().items()),
        ]
    sequence = open_sequence(path, bag)
    first = sequence[0]
    k = first.intrinsics
    return [
        ("frames", str(len(sequence))),
        ("size", f"{k.width} x {k.height}"),
        ("fx fy cx cy", f"{k.fx:.1f} {k.fy:.1f} {k.cx:.1f} {k.cy:.1f}"),
        ("depth of the first frame", f"{100 * (first.depth > 0).mean():.0f} % valid, up to {first.depth.max():.2f} m"),
    ]


def _scene_facts(path: Path) -> list[tuple[str, str]]:
    scene = load_any_scene(path, drop_bad=True)
    content = scene.content
    facts = [("points" if isinstance(content, PointCloud) else "Gaussians", str(len(content)))]
    facts += [("left out, with --drop-bad", f"{count} with {reason}") for reason, count in scene.faults.items()]
    if not len(content):
        return facts
    facts.append(("extent", _extent(scene.positions)))
    if scene.origin.any():
        facts.append(("origin", " ".join(f"{value:.3f}" for value in scene.origin) + " m"))
    if isinstance(content, PointCloud):
        unknown = len(content) if content.normals is None else int((~content.normals.any(dim=1)).sum())
        return [*facts, ("normals", f"{unknown} of {len(content)} estimated when encoded" if unknown else "given")]
    facts.append(("median scale", f"{float(content.scales.median()):.4f} m"))
    sidecar = features_path(path) if path.suffix == ".ply" else None
    if sidecar is not None and not sidecar.is_file():
        facts.append(("features", f"missing: {sidecar.name}"))
    elif sidecar is not None:
        labelled, model = load_map(path)
        facts += [("map", labelled.map_id)] if labelled.map_id else []
        facts += [("objects", str(len(labelled.objects)))]
        facts += [("model", model.name), ("feature width", str(labelled.features.shape[1]))]
        counts = torch.bincount(labelled.labels[labelled.labels >= 0], minlength=len(labelled.vocabulary))
        top = [f"{labelled.vocabulary.labels[i]} {int(counts[i])}" for i in counts.argsort(descending=True)[:8]]
        facts.append(("most common labels", ", ".join(top)))
    return facts


def _extent(points: torch.Tensor) -> str:
    sides = (points.amax(dim=0) - points.amin(dim=0)).tolist()
    return " x ".join(f"{side:.2f}" for side in sides) + " m"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chorus", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run, help_: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_)
        sub.add_argument("path", type=Path)
        sub.add_argument("--config", type=Path, help="YAML file of options")
        sub.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="one option, dotted")
        sub.set_defaults(run=run)
        return sub

    sub = command("map", build_map, "RGB-D folder or rosbag2 to a labelled map")
    sub.add_argument("--out", type=Path, default=Path("out/map.ply"))
    sub.add_argument(
        "--onto", type=Path, metavar="MAP.ply", help="go on with a saved map, in whose frame the poses are"
    )
    sub.add_argument("--bare", action="store_true", help="Gaussians only, no features")
    sub.add_argument("--upright", action="store_true", help="find the vertical first; for hand-held recordings")
    add_bag_arguments(sub)
    sub = command("encode", encode_scene, f"features and labels for a scene: {FORMS}")
    sub.add_argument(
        "-o", "--out", type=Path,
        help="NAME.ply, a labelled map (default for Gaussians), or NAME.safetensors, features as the head gives them, "
        "a row each Gaussian or point in the scene's order (default for points)",
    )  # fmt: skip
    sub.add_argument("--grid", type=float, help="edge of the encoder's voxels, metres")
    sub.add_argument("--head", default="lang", help="of the features in a .safetensors; none: before any head")
    sub.add_argument(
        "--drop-bad",
        action="store_true",
        help="leave out rows that are no Gaussians or points: not finite, rotations of zeros, impossible sizes",
    )
    sub.add_argument(
        "--drop-outliers", action="store_true",
        help="leave out, too, what is blown up, floats alone or lies far away, as fits without depth have it",
    )  # fmt: skip
    sub = command("query", query_map, "ask a saved map")
    sub.add_argument("text", nargs="+")
    sub.add_argument("--negative", action="append", default=[], help="what is not meant")
    sub.add_argument("--model", default="", help="where the model that encoded the map is now, if it was moved")
    sub.add_argument("--threshold", type=float, default=0.0, help="0: semantics.threshold, or else the calibrated one")
    sub.add_argument("--max-objects", type=int, default=0)
    add_bag_arguments(command("info", show_info, "facts of a sequence, map or checkpoint"))
    return parser


def read_config(path: Path | None, assignments: Sequence[str]) -> Config:
    """A configuration from a file and ``option=value`` pairs, which win.

    Raises:
        ConfigError: unknown option, wrong type or range, or a pair without '='.
    """
    tree = configuration.flatten(configuration.as_dict(configuration.load(path))) if path else {}
    for pair in assignments:
        name, found, value = pair.partition("=")
        if not found:
            raise configuration.ConfigError(f"--set {pair}: expected OPTION=VALUE")
        tree[name] = _value(parse_yaml(value, f"--set {name}", error=configuration.ConfigError))
    return configuration.parse(Config, tree)


def _value(read: Any) -> Any:
    """What YAML 1.1 takes for text though it is a number: ``5e-2``."""
    try:
        return float(read) if isinstance(read, str) else read
    except ValueError:
        return read


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; mistakes of the user end in one line on standard error and status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed, read_config(parsed.config, parsed.set))
    except (ValueError, OSError) as error:
        print(f"chorus {parsed.command}: {error}", file=sys.stderr)
        return 2
    return 0
