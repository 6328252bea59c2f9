"""One scene from its source to prepared folders, in stages that survive a kill."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from chorus_core.gaussians import Gaussians
from chorus_core.teachers.base import Teacher
from chorus_core.teachers.cache import CachedTeacher
from training.chunks import chunks, label_gaussians
from training.datasets.base import LabelledPoints, PosedImage, SceneSource
from training.preparation.config import NO_CACHE, PrepareConfig
from training.preparation.initial import initial_gaussians
from training.preparation.lift import LiftedViews, head_widths, lift_views
from training.preparation.online_map import map_images
from training.preparation.photometric import fit
from training.preparation.record import Record
from training.preparation.stages import Stages, key_of
from training.preparation.views import load_views, select_views
from training.prepared import LiftedFeatures, PreparedScene, SceneInfo

logger = logging.getLogger(__name__)

WORK = ".prepare"
"""Folder beside the subsets: intermediate results, and a record of every finished scene."""
_FIELDS = ("means", "quats", "scales", "opacities", "colors")


class PreparationError(ValueError):
    """A scene that cannot be prepared; the message names what it lacks."""


@dataclass(frozen=True)
class SceneResult:
    """Where a scene went.

    Attributes:
        outputs: folders of prepared scenes, one or one a chunk.
        skipped: it had been finished before, from the same source, configuration and teachers.
    """

    outputs: tuple[Path, ...]
    skipped: bool = False


def prepare_scene(
    source: SceneSource,
    out: str | Path,
    teachers: Sequence[Teacher],
    config: PrepareConfig | None = None,
    progress: bool = False,
) -> SceneResult:
    """Gaussians, lifted features and labels of a scene, written under ``<out>/<subset>/``.

    What each stage made is kept in ``<out>/.prepare/`` until the scene is finished, and used again when all that it
    depends on is the same; a scene finished before is skipped on the same terms. Folders appear whole.

    Args:
        source: the scene.
        out: root of the prepared data set.
        teachers: no two with the same head; none leaves the scene without features.
        config: defaults where not given.
        progress: show bars.

    Raises:
        PreparationError: the scene lacks what its preparation needs, or nothing is left of it.
        DatasetError, SceneFolderError, ValueError: from reading images, writing arrays, or clashing teachers.
    """
    config, out = config or PrepareConfig(), Path(out)
    if not source.name or source.name.startswith(".") or {"/", "\\"} & set(source.name):
        raise PreparationError(f"scene name {source.name!r}: expected a plain file name")
    head_widths(teachers)  # before anything long: two teachers of one head are an error
    method = gaussians_from(source, config)
    record = Record(out / WORK / source.subset / f"{source.name}.json", out / source.subset)
    made_from = _made_from(source, method, teachers, config)
    if (done := record.finished(made_from)) is not None:
        return SceneResult(done, skipped=True)

    images = select_views(source.images, config.every, config.views)
    stages = Stages(out / WORK / source.subset / source.name)
    gaussians, key = _gaussians_stage(stages, source, images, method, config, progress)
    lifted = _lift_stage(stages, key, gaussians, images, teachers, config, progress)
    prepared = _with_labels(source, method, gaussians.to("cpu"), lifted, teachers, config)
    parts = _cut(prepared, config)
    outputs = record.write(made_from, parts, stages.folder / "out")
    if not config.keep_stages:
        stages.clear()
    logger.info("%s: %d Gaussians (%s), %d folders", source.name, len(gaussians), method, len(outputs))
    return SceneResult(outputs)


def gaussians_from(source: SceneSource, config: PrepareConfig) -> str:
    """Where this scene's Gaussians come from: "given", "map" or "fit"; the first image speaks for all.

    Raises:
        PreparationError: from nowhere, or not from where the configuration says.
    """
    possible = {
        "given": source.gaussians is not None,
        "map": bool(source.images) and source.images[0].depth is not None,
        "fit": bool(source.images),
    }
    wanted = list(possible) if config.gaussians == "auto" else [config.gaussians]
    if method := next((name for name in wanted if possible[name]), None):
        return method
    lacks = {"given": "Gaussians", "map": "images with depth", "fit": "images"}
    raise PreparationError(f"{source.name} has no {' and no '.join(lacks[name] for name in wanted)}")


def _gaussians_stage(
    stages: Stages,
    source: SceneSource,
    images: Sequence[PosedImage],
    method: str,
    config: PrepareConfig,
    progress: bool,
) -> tuple[Gaussians, str]:
    """The scene's Gaussians on the device, and the key of the stage."""
    key = key_of(_facts(source, method, config))
    stored = stages.get("gaussians", key)
    if stored is None:
        gaussians = _make_gaussians(source, images, method, config, progress)
        if not len(gaussians):
            raise PreparationError(f"{source.name}: no Gaussians came out of {method!r}")
        stages.put("gaussians", key, {name: getattr(gaussians, name) for name in _FIELDS})
    else:
        gaussians = Gaussians(*(stored[name] for name in _FIELDS))
    return gaussians.to(config.torch_device), key


def _make_gaussians(
    source: SceneSource, images: Sequence[PosedImage], method: str, config: PrepareConfig, progress: bool
) -> Gaussians:
    device = config.torch_device
    if method == "given":
        return source.gaussians()
    if method == "map":
        return map_images(images, config.map, device, config.lift.max_width, progress)
    views = list(load_views(images, config.lift.max_width, depth=True))
    surface = source.labels().points if source.labels is not None else None
    begun = initial_gaussians(views, min(config.fit.initial, config.fit.cap), config.seed, surface)
    return fit(begun.to(device), views, config.fit, config.seed, config.engine, progress)


def _lift_stage(
    stages: Stages,
    key: str,
    gaussians: Gaussians,
    images: Sequence[PosedImage],
    teachers: Sequence[Teacher],
    config: PrepareConfig,
    progress: bool,
) -> LiftedViews:
    """Features, normals and views seen, on the CPU; only teachers whose heads are not stored look at the images."""
    key = key_of({"gaussians": key, "lift": asdict(config.lift), "engine": config.engine})
    features: dict[str, LiftedFeatures] = {}
    missing = []
    for teacher in teachers:
        stored = {head: stages.get(f"head_{head}", f"{key} {teacher.name}") for head in teacher.heads}
        if None in stored.values():
            missing.append(teacher)
        else:
            features |= {head: LiftedFeatures(s["table"], s["index"]) for head, s in stored.items()}
    views = stages.get("views", key)
    if missing or views is None:
        cache = Path(config.feature_cache) if config.feature_cache else stages.folder / "features"
        cached = missing if config.feature_cache == NO_CACHE else [CachedTeacher(t, cache) for t in missing]
        lifted = lift_views(gaussians, images, cached, config.lift, config.engine, progress)
        for teacher in missing:
            for head in teacher.heads:
                found = lifted.features[head].to("cpu")
                if not len(found.table):
                    raise PreparationError(
                        f"{teacher.name}, {head!r}: no Gaussian shows in any of {len(images)} images"
                    )
                stages.put(f"head_{head}", f"{key} {teacher.name}", {"table": found.table, "index": found.index})
                features[head] = found
        views = {"normals": lifted.normals.cpu(), "seen": lifted.seen.cpu()}
        stages.put("views", key, views)
    return LiftedViews(features, views["normals"], views["seen"])


def _with_labels(
    source: SceneSource,
    method: str,
    gaussians: Gaussians,
    lifted: LiftedViews,
    teachers: Sequence[Teacher],
    config: PrepareConfig,
) -> PreparedScene:
    labels: LabelledPoints | None = source.labels() if source.labels is not None else None
    ignore = torch.full((len(gaussians),), -1, dtype=torch.int64)
    segment, instance = (ignore, ignore) if labels is None else label_gaussians(gaussians, labels, config.label_reach)
    facts = _facts(source, method, config)
    info = SceneInfo(
        source.name,
        {"given": source.voxel_size, "map": config.map.voxel_size, "fit": 0.0}[method],
        () if labels is None else labels.classes,
        () if labels is None else labels.instances,
        {head: teacher.name for teacher in teachers for head in teacher.heads},
        facts | {"lift": asdict(config.lift)},
    )
    features = {head: lifted.features[head] for head in sorted(lifted.features)}
    return PreparedScene(info, gaussians, lifted.normals, segment, instance, features, lifted.seen)


def _cut(scene: PreparedScene, config: PrepareConfig) -> list[PreparedScene]:
    """The scene in chunks, or whole."""
    cut = config.chunk
    if not cut.size and not cut.grid:
        return [scene]
    edge, stride = (cut.size, cut.stride) if cut.size else (math.inf, math.inf)
    height = cut.height or math.inf
    # Of Gaussians in one cell the one with dense features stays, as in the releases; "lang" covers the least.
    heads = sorted(scene.features, key=lambda head: head == "lang")
    minimum = cut.min_gaussians if cut.size else 1
    parts = list(chunks(scene, (edge, edge, height), (stride, stride, height), minimum, cut.grid, heads))
    if parts:
        return parts
    raise PreparationError(
        f"{scene.info.name}: {len(scene.gaussians)} Gaussians, fewer than the {minimum} of the smallest chunk"
    )


def _made_from(source: SceneSource, method: str, teachers: Sequence[Teacher], config: PrepareConfig) -> str:
    """The key of everything a finished scene depends on."""
    rest = {
        "teachers": {teacher.name: dict(teacher.heads) for teacher in teachers},
        "lift": asdict(config.lift),
        "chunk": asdict(config.chunk),
        "label_reach": config.label_reach,
        "engine": config.engine,
    }
    return key_of(_facts(source, method, config) | rest)


def _facts(source: SceneSource, method: str, config: PrepareConfig) -> dict[str, Any]:
    """What the Gaussians depend on besides what is in the images."""
    facts: dict[str, Any] = {"scene": source.name, "subset": source.subset, "gaussians": method}
    facts |= {"images": len(source.images), "every": config.every, "views": config.views}
    if method == "given":
        return facts
    facts |= {"max_width": config.lift.max_width, method: asdict(getattr(config, method))}
    return facts | ({"seed": config.seed, "engine": config.engine} if method == "fit" else {})
