"""``python -m chorus_core map|encode|query|info``: the pipeline without ROS, on folders, bags and ``.ply`` files."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from chorus_core import config as configuration
from chorus_core.config import Config
from chorus_core.encoder import ChorusEncoder, EncodeOptions
from chorus_core.encoder.checkpoint import shipped_models
from chorus_core.encoder.hub import is_hub_name
from chorus_core.encoder.normals import estimate_normals
from chorus_core.encoder.outliers import inliers
from chorus_core.gaussians import Gaussians
from chorus_core.io.any_scene import FORMS, load_any_scene
from chorus_core.io.feature_file import save_features
from chorus_core.io.map_file import features_path, load_map
from chorus_core.io.point_cloud import PointCloud
from chorus_core.io.rgbd import open_sequence
from chorus_core.mapping import MapSnapshot
from chorus_core.pipeline import Pipeline, choose_device
from chorus_core.saved_map import open_saved_map
from chorus_core.semantics.labelled_map import QueryResult


def build_map(arguments: argparse.Namespace, config: Config) -> None:
    """A sequence to a labelled map."""
    sequence = open_sequence(arguments.path, upright=arguments.upright)
    pipeline = Pipeline(config)
    for frame in tqdm(sequence, total=len(sequence), desc="frames"):
        pipeline.integrate(frame)
    if not arguments.bare:
        _encode_with_progress(pipeline)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pipeline.save(arguments.out)
    dropped = f", {sum(sequence.dropped.values())} frames dropped {dict(sequence.dropped)}" if sequence.dropped else ""
    written = len(pipeline.labelled_map()) or len(pipeline.map.export().gaussians)
    print(f"{arguments.out}: {written} Gaussians from {pipeline.status().frames} frames{dropped}")


def encode_scene(arguments: argparse.Namespace, config: Config) -> None:
    """A scene of any form to a labelled map (``.ply``), or to the bare features of its rows (``.safetensors``)."""
    scene = load_any_scene(arguments.path)
    points = isinstance(scene, PointCloud)
    default = arguments.path.with_suffix(".features.safetensors" if points else ".chorus.ply")
    out: Path = arguments.out or default
    if out.resolve() == arguments.path.resolve():
        raise ValueError(f"--out {out} is the input: it would lose its other columns (spherical harmonics, say)")
    if out.suffix not in (".ply", ".safetensors"):
        raise ValueError(f"--out {out}: expected NAME.ply (a labelled map) or NAME.safetensors (features)")
    if points and (out.suffix == ".ply" or arguments.drop_outliers):
        raise ValueError(f"{arguments.path} holds points: a labelled map and --drop-outliers need Gaussians")
    kept = inliers(scene) if arguments.drop_outliers else torch.ones(len(scene), dtype=torch.bool)
    if not kept.any():
        raise ValueError(f"{arguments.path}: nothing to encode in {len(scene)} rows")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".ply":
        _write_map(out, scene[kept], arguments.grid, config)
    else:
        _write_features(out, scene, kept, arguments, config)
    left_out = f", {int((~kept).sum())} outliers left out" if arguments.drop_outliers else ""
    print(f"{out}: {int(kept.sum())} {'points' if points else 'Gaussians'} encoded{left_out}")


def _write_map(out: Path, gaussians: Gaussians, grid: float | None, config: Config) -> None:
    pipeline = Pipeline(config)
    numbers = torch.arange(len(gaussians))
    features = pipeline.describe(gaussians, grid or pipeline.encoder.model.config.grid_size)
    pipeline.semantics.update(MapSnapshot(gaussians, numbers, numbers, 0.0), numbers, features)
    pipeline.save(out)


def _write_features(
    out: Path, scene: Gaussians | PointCloud, kept: torch.Tensor, arguments: argparse.Namespace, config: Config
) -> None:
    options = config.encoder
    encoder = ChorusEncoder.from_pretrained(options.checkpoint, choose_device(options.device))
    head = None if arguments.head == "none" else arguments.head
    if head is not None and head not in encoder.model.config.heads:
        raise ValueError(f"--head {head}: the model has {', '.join(sorted(encoder.model.config.heads))}, or none")
    features = torch.zeros((len(scene), encoder.width(head)), dtype=torch.float16)
    size = arguments.grid or encoder.model.config.grid_size
    how = EncodeOptions(
        grid_size=size, max_points=options.max_gaussians, memory_gib=options.memory_gib, halo=options.halo,
        per_voxel=options.per_voxel,
    )  # fmt: skip
    if isinstance(scene, PointCloud):
        normals = estimate_normals(scene.points) if scene.normals is None else scene.normals
        found = encoder.encode_points(scene.points, scene.colors, normals, head, **how)
    else:
        found = encoder.encode(scene[kept], head, **how)
    features[kept] = found.cpu()
    facts = {
        "scene": arguments.path.name,
        "model": encoder.description.get("name", options.checkpoint),
        "sha256": encoder.description.get("sha256", ""),
        "head": arguments.head,
        "grid_size": size,
        "per_voxel": options.per_voxel,
    }
    save_features(out, features, kept, facts)


def query_map(arguments: argparse.Namespace, config: Config) -> None:
    """Ask a saved map."""
    semantics = open_saved_map(arguments.path, config.semantics, arguments.model)
    for text in arguments.text:
        print_answer(semantics.query(text, arguments.negative, arguments.threshold, arguments.max_objects))


def show_info(arguments: argparse.Namespace, config: Config) -> None:
    """Facts of a sequence, a map or a checkpoint."""
    path: Path = arguments.path
    table = Table(title=str(path), show_header=False)
    for name, value in _facts(path):
        table.add_row(name, value)
    Console().print(table)


def print_answer(result: QueryResult) -> None:
    """An answer as a table."""
    title = f'"{result.text}": {len(result.objects)} found in {1e3 * result.seconds:.0f} ms'
    if not result.objects:
        print(f"{title} (nothing in the map reaches {result.threshold:.2f})")
        return
    table = Table("score", "centre x y z (m)", "size x y z (m)", "Gaussians", title=title)
    for item in result.objects:
        center, size = (" ".join(f"{v:.2f}" for v in values) for values in (item.box_center, item.box_size))
        table.add_row(f"{item.score:.2f}", center, size, str(item.count))
    Console().print(table)


def _encode_with_progress(pipeline: Pipeline) -> None:
    total = len(pipeline.map)
    with tqdm(total=total, unit="G", desc="encode") as bar:
        while (report := pipeline.encode_step()) is not None:
            bar.update(min(report.encoded, total - bar.n))


def _facts(path: Path) -> list[tuple[str, str]]:
    if path.suffix.lower() in (".ply", ".splat", ".npz") or (path / "coord.npy").is_file():
        return _scene_facts(path)
    named = not path.exists() and (str(path) in shipped_models() or is_hub_name(str(path)))
    if named or (path / "config.json").is_file() or path.suffix in (".pth", ".safetensors"):
        encoder = ChorusEncoder.from_pretrained(str(path))
        parameters = sum(p.numel() for p in encoder.model.parameters())
        return [
            ("parameters", f"{parameters / 1e6:.1f} M"),
            *((k, str(v)) for k, v in encoder.model.config.to_dict().items()),
        ]
    sequence = open_sequence(path)
    first = sequence[0]
    k = first.intrinsics
    return [
        ("frames", str(len(sequence))),
        ("size", f"{k.width} x {k.height}"),
        ("fx fy cx cy", f"{k.fx:.1f} {k.fy:.1f} {k.cx:.1f} {k.cy:.1f}"),
        ("depth of the first frame", f"{100 * (first.depth > 0).mean():.0f} % valid, up to {first.depth.max():.2f} m"),
    ]


def _scene_facts(path: Path) -> list[tuple[str, str]]:
    scene = load_any_scene(path)
    if isinstance(scene, PointCloud):
        normals = "estimated when encoded" if scene.normals is None else "given"
        return [("points", str(len(scene))), ("extent", _extent(scene.points)), ("normals", normals)]
    facts = [
        ("Gaussians", str(len(scene))),
        ("extent", _extent(scene.means)),
        ("median scale", f"{float(scene.scales.median()):.4f} m"),
    ]
    if path.suffix == ".ply" and features_path(path).is_file():
        labelled, model = load_map(path)
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
    sub.add_argument("--bare", action="store_true", help="Gaussians only, no features")
    sub.add_argument("--upright", action="store_true", help="find the vertical first; for hand-held recordings")
    sub = command("encode", encode_scene, f"features and labels for a scene: {FORMS}")
    sub.add_argument(
        "-o", "--out", type=Path,
        help="NAME.ply, a labelled map (default for Gaussians), or NAME.safetensors, features as the head gives them, "
        "a row each Gaussian or point in the scene's order (default for points)",
    )  # fmt: skip
    sub.add_argument("--grid", type=float, help="edge of the encoder's voxels, metres")
    sub.add_argument("--head", default="lang", help="of the features in a .safetensors; none: before any head")
    sub.add_argument(
        "--drop-outliers", action="store_true",
        help="leave out Gaussians that are blown up or float alone, as fits without depth have them",
    )  # fmt: skip
    sub = command("query", query_map, "ask a saved map")
    sub.add_argument("text", nargs="+")
    sub.add_argument("--negative", action="append", default=[], help="what is not meant")
    sub.add_argument("--model", default="", help="where the model that encoded the map is now, if it was moved")
    sub.add_argument("--threshold", type=float, default=0.0, help="0: semantics.threshold, or else the calibrated one")
    sub.add_argument("--max-objects", type=int, default=0)
    command("info", show_info, "facts of a sequence, map or checkpoint")
    return parser


def read_config(path: Path | None, assignments: Sequence[str]) -> Config:
    """A configuration from a file and ``option=value`` pairs, which win.

    Raises:
        ConfigError: unknown option, wrong type or range, or a pair without '='.
    """
    import yaml

    tree = configuration.flatten(configuration.as_dict(configuration.load(path))) if path else {}
    for pair in assignments:
        name, found, value = pair.partition("=")
        if not found:
            raise configuration.ConfigError(f"--set {pair}: expected OPTION=VALUE")
        tree[name] = _value(yaml.safe_load(value))
    return configuration.parse(Config, tree)


def _value(read: Any) -> Any:
    """What YAML 1.1 takes for text though it is a number: ``5e-2``."""
    try:
        return float(read) if isinstance(read, str) else read
    except ValueError:
        return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; mistakes of the user end in one line on standard error and status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed, read_config(parsed.config, parsed.set))
    except (ValueError, OSError) as error:
        print(f"chorus {parsed.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
