"""A scene as a task that can travel to another process: names and a configuration, no open files."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chorus_core.teachers.base import Teacher
from training.datasets.base import SceneSource
from training.datasets.registry import open_dataset
from training.preparation.config import PrepareConfig
from training.preparation.heads import load_named
from training.preparation.scene import prepare_scene

logger = logging.getLogger(__name__)

DONE, SKIPPED, FAILED = "done", "skipped", "failed"


@dataclass(frozen=True)
class SceneJob:
    """What a worker needs to know of a scene.

    Attributes:
        dataset, root, options: as for ``open_dataset``; the root must be readable where the job runs.
        subset, scene: which of its scenes.
        out: root of the prepared data set, writable where the job runs.
        teachers: as for :func:`training.preparation.heads.load_named`.
        config: how to prepare it.
    """

    dataset: str
    root: str
    options: tuple[tuple[str, Any], ...]
    subset: str
    scene: str
    out: str
    teachers: tuple[str, ...]
    config: PrepareConfig

    @property
    def name(self) -> str:
        return f"{self.subset}/{self.scene}"


@dataclass(frozen=True)
class SceneReport:
    """How a job ended.

    Attributes:
        name: ``<subset>/<scene>``.
        status: "done", "skipped" (finished before) or "failed".
        seconds: it took.
        outputs: folders written, or found written.
        reason: of a failure.
    """

    name: str
    status: str
    seconds: float
    outputs: tuple[str, ...] = ()
    reason: str = ""


def prepare_job(job: SceneJob, progress: bool = False) -> SceneReport:
    """Prepare a scene; whatever goes wrong with it ends in the report, so that the others go on."""
    began = time.perf_counter()
    try:
        source = _sources(job.dataset, job.root, job.options)[job.subset, job.scene]
        teachers = _teachers(job.teachers, str(job.config.torch_device))
        result = prepare_scene(source, job.out, teachers, job.config, progress)
    except Exception as error:
        logger.error("%s failed", job.name, exc_info=True)
        reason = f"{type(error).__name__}: {error}"
        return SceneReport(job.name, FAILED, time.perf_counter() - began, reason=reason)
    outputs = tuple(str(path.relative_to(Path(job.out))) for path in result.outputs)
    return SceneReport(job.name, SKIPPED if result.skipped else DONE, time.perf_counter() - began, outputs)


@functools.lru_cache(maxsize=4)
def _sources(dataset: str, root: str, options: tuple[tuple[str, Any], ...]) -> dict[tuple[str, str], SceneSource]:
    return {(source.subset, source.name): source for source in open_dataset(dataset, root, **dict(options))}


@functools.lru_cache(maxsize=2)
def _teachers(specs: tuple[str, ...], device: str) -> Sequence[Teacher]:
    """Loaded once in every worker."""
    return tuple(load_named(spec, device) for spec in specs)
