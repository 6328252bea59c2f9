"""``python -m benchmarks.kill_saves --kills 100``: which map is found after a save was killed at a random instant.

A child process overwrites one map again and again, every time with values that tell the number of the save, and gets
SIGKILL. The map is then read: it must be that of the save before ("old") or of the save that was going on ("new").
Parts of both would be a "mixture". Ends with status 1 if any kill left a mixture, an unreadable map, or any other.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.building import rooms
from benchmarks.report import parser, publish
from chorus_core.io.map_file import MapFileError, ModelReference, load_map, save_map
from chorus_core.semantics.labelled_map import LabelledMap
from chorus_core.semantics.vocabulary import Vocabulary

WIDTH = 64
_STEPS = 1000
"""Numbers are told apart by their remainder, which half precision holds exactly as thousandths of 1024."""


def numbered(blank: LabelledMap, number: int) -> LabelledMap:
    """The map with the number of a save in every part of it."""
    share = number % _STEPS / 1024
    blank.gaussians.means[:, 0] = number
    blank.features[:, 0] = share
    blank.confidence[:] = share
    return LabelledMap(
        blank.gaussians, blank.features, blank.labels, blank.confidence, Vocabulary((f"save {number}",)), number
    )


def numbers_in(found: LabelledMap) -> set[int]:
    """The saves that parts of a map are of."""
    number = found.stamp
    shares = torch.cat((found.features[:, 0].float(), found.confidence)).unique()
    numbers = {number} | {int(value) for value in found.gaussians.means[:, 0].unique()}
    numbers |= {int(label.removeprefix("save ")) for label in found.vocabulary.labels}
    return numbers | {round(float(share) * 1024) + number // _STEPS * _STEPS for share in shares}


def blank_map(count: int, seed: int) -> LabelledMap:
    gaussians = rooms(count, (0.0, 0.0, 0.0), 0.02, seed)
    held = len(gaussians)
    zeros = torch.zeros(held)
    return LabelledMap(gaussians, torch.zeros(held, WIDTH).half(), zeros.long(), zeros, Vocabulary(("blank",)), 0)


def save(path: Path, blank: LabelledMap, number: int) -> None:
    save_map(path, numbered(blank, number), np.full(len(blank), -1), ModelReference("none", unit=True))


def kill_one(path: Path, blank: LabelledMap, first: int, seconds: float) -> int:
    """Let a child save ``first`` and on, kill it after so many seconds; the number it was at."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        number = first
        while True:
            os.write(writer, f"{number}\n".encode())
            save(path, blank, number)
            number += 1
    os.close(writer)
    with os.fdopen(reader) as told:
        lines = [told.readline()]  # it has begun
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        lines += told.readlines()
    return int(lines[-1])


def verdict(path: Path, going_on: int) -> str:
    try:
        numbers = numbers_in(load_map(path)[0])
    except (MapFileError, OSError) as error:
        print(f"kill during save {going_on}: {error}", file=sys.stderr)
        return "error"
    if len(numbers) > 1:
        return "mixture"
    return {going_on - 1: "old", going_on: "new"}.get(numbers.pop(), "another")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--gaussians", type=int, default=20_000)
    a = options.parse_args(arguments)
    chance = random.Random(a.seed)
    blank = blank_map(a.gaussians, a.seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.ply"
        began = time.perf_counter()
        save(path, blank, 0)
        one_save = time.perf_counter() - began
        number = 0
        for _ in range(a.kills):
            number = kill_one(path, blank, number + 1, chance.uniform(0, 3 * one_save))
            counts[found := verdict(path, number)] += 1
            if found != "new":
                save(path, blank, number)
        left = len(list(Path(folder).iterdir()))
        save(path, blank, number + 1)
        kept = len(list(Path(folder).iterdir()))
    rows = [{"found": name, "kills": counts[name]} for name in ("old", "new", "mixture", "error", "another")]
    facts = {"Gaussians": len(blank), "ms a save": 1e3 * one_save, "files after the last kill": left}
    publish("map found after a killed save", rows, torch.device("cpu"), a.out, **facts, **{"and after a save": kept})
    return int(counts["old"] + counts["new"] != a.kills)


if __name__ == "__main__":
    sys.exit(main())
