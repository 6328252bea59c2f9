"""Several trainings as processes of their own, a few at a time, on all GPUs of the machine; finished ones are kept."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import torch
from tqdm import tqdm

logger = logging.getLogger(__name__)

_DONE, _OUTPUT = "done", "output.txt"


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        folder: of the run; keeps what it prints, and a mark once it has ended well.
        module: of this project, run as ``python -m``.
        arguments: of its command line.
    """

    folder: Path
    module: str
    arguments: tuple[object, ...]

    @property
    def done(self) -> bool:
        return (self.folder / _DONE).is_file()


class RunError(RuntimeError):
    """A process that failed; the message has its last words."""


def run_all(runs: Sequence[Run], jobs: int = 1) -> None:
    """Run what is not done yet, ``jobs`` at a time, in order; GPUs take turns.

    A run that fails does not stop the others.

    Raises:
        RunError: some failed.
    """
    places: SimpleQueue[int] = SimpleQueue()
    for place in range(jobs):
        places.put(place)

    def one(run: Run) -> str | None:
        place = places.get()
        try:
            return _execute(run, place)
        finally:
            places.put(place)

    waiting = [run for run in runs if not run.done]
    with ThreadPoolExecutor(jobs) as pool:
        problems = list(tqdm(pool.map(one, waiting), total=len(waiting), desc="runs", disable=None))
    if failed := [problem for problem in problems if problem is not None]:
        raise RunError(f"{len(failed)} of {len(waiting)} runs failed; the first:\n{failed[0]}")


def _execute(run: Run, place: int) -> str | None:
    """Run it; what went wrong, or None."""
    environment = dict(os.environ)
    if gpus := torch.cuda.device_count():
        visible = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        environment["CUDA_VISIBLE_DEVICES"] = visible[place % gpus]
    run.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", run.module, *map(str, run.arguments)]
    with (run.folder / _OUTPUT).open("a") as output:
        code = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode
    if code == 0:
        (run.folder / _DONE).touch()
        return None
    last = (run.folder / _OUTPUT).read_text(errors="replace").splitlines()[-15:]
    logger.error("%s ended with code %d", run.folder, code)
    return f"{' '.join(command)}\nended with code {code} ({run.folder / _OUTPUT}):\n" + "\n".join(last)
