"""Jobs one after the other in this process, or several at a time as Ray tasks on this machine or a cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from training.preparation.jobs import FAILED, SceneJob, SceneReport

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 128 << 20  # jobs and reports are small; scenes travel through files
_RETRIES = 2  # of a task whose worker died, as when memory ran out


class RayMissingError(RuntimeError):
    """Ray is asked for and not installed."""


@dataclass(frozen=True)
class RayOptions:
    """Where tasks run and what each reserves.

    Attributes:
        address: of a cluster, "auto" for the one this machine belongs to; None starts Ray on this machine.
        workers: tasks at a time; 0 = as many as the resources allow.
        cpus, gpus: reserved for each task; fractions of a GPU let tasks share it.
    """

    address: str | None = None
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0


def run_here(jobs: Sequence[SceneJob], work: Callable[[SceneJob], SceneReport]) -> Iterator[SceneReport]:
    """Reports of jobs done one after the other in this process."""
    for job in jobs:
        yield work(job)


def run_on_ray(
    jobs: Sequence[SceneJob], work: Callable[[SceneJob], SceneReport], options: RayOptions
) -> Iterator[SceneReport]:
    """Reports of jobs as they end, in any order. When the caller stops early, tasks under way are cancelled.

    Args:
        work: importable in the workers.

    Raises:
        RayMissingError: Ray is not installed.
        ConnectionError: no cluster at the address.
    """
    ray = _import_ray()
    _start(ray, options)
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=_RETRIES)(work)
    waiting = list(reversed(jobs))
    running: dict[Any, SceneJob] = {}
    try:
        while waiting or running:
            while waiting and (not options.workers or len(running) < options.workers):
                job = waiting.pop()
                running[task.remote(job)] = job
            ended, _ = ray.wait(list(running), timeout=1.0)  # returns at times, so that Ctrl-C is heard
            for reference in ended:
                yield _result(ray, reference, running.pop(reference))
    finally:
        for reference in running:
            ray.cancel(reference)
        ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing about a run leaves the machine
    try:
        import ray
    except ImportError as error:
        raise RayMissingError(
            "Ray is not installed: pip install ray, or work in one process with --workers 0"
        ) from error
    return ray


def _start(ray: Any, options: RayOptions) -> None:
    common = {"include_dashboard": False, "logging_level": logging.WARNING}
    if options.address is not None:
        ray.init(address=options.address, logging_level=logging.WARNING)
        return
    # "local" never joins a cluster that happens to run on this machine.
    cpus = max(1, round(options.workers * options.cpus)) if options.workers else None
    ray.init(address="local", num_cpus=cpus, object_store_memory=_OBJECT_STORE_BYTES, **common)


def _result(ray: Any, reference: Any, job: SceneJob) -> SceneReport:
    """The task's report; where its worker died, one that says so."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        logger.error("%s failed: its worker is gone: %s", job.name, reason)
        return SceneReport(job.name, FAILED, 0.0, reason=f"{type(error).__name__}: {reason}")
