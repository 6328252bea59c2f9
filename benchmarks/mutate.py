"""``python -m benchmarks.mutate``: damaged inputs for every reader, to be read or refused with a documented error.

Reads of damaged files run in a process of their own, which may hold so much memory and take so long. Faults are listed
with the number that brings them back: ``--reader NAME --only NUMBER`` shows the whole traceback.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.report import parser, publish

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from mutations import mutate
from readers import Reader, all_readers, documented, files_of

SLOW, LARGE = 5.0, 256 << 20
"""Seconds of the processor and bytes that a damaged file of some kilobytes may take beyond those of the whole one."""

ADDRESS_SPACE = 8 << 30
"""Bytes that a read may reserve beyond what the process has: a header must not ask for more than the file holds."""

HANGS = 60.0
OUTCOMES = ("accepted", "refused", "traceback", "insane", "slow", "large", "killed")
"""Insane is a result that reads as whole and is not; the last five are faults."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation: one of :data:`OUTCOMES`, what was done to which file, and where it failed."""

    kind: str
    mutation: str
    detail: str = ""


def damage(reader: Reader, whole: Path, seed: int, number: int, to: Path) -> str:
    """A copy of a whole input with one file changed; says which and how."""
    rng = np.random.default_rng([seed, zlib.crc32(reader.name.encode()), number])
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(whole, to)
    path = files_of(reader, to)[int(rng.integers(len(files_of(reader, to))))]
    name, content = mutate(path.read_bytes(), rng)
    path.write_bytes(content)
    return f"{path.relative_to(to)}: {name}"


def attempt(reader: Reader, folder: Path, mutation: str, usual: tuple[float, int]) -> Outcome:
    """Read a damaged input.

    Args:
        usual: seconds of the processor and bytes that the whole one takes.
    """
    _reset_peak()
    before, began = _resident(), time.process_time()
    try:
        reader.read(folder)
        kind, detail = "accepted", ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        kind, detail = _judge(error)
    seconds, growth = time.process_time() - began - usual[0], _peak() - before - usual[1]
    if kind in ("accepted", "refused") and (seconds > SLOW or growth > LARGE):
        kind = "slow" if seconds > SLOW else "large"
        detail = f"{seconds:.1f} s, {growth >> 20} MiB; {detail}"
    return Outcome(kind, mutation, detail)


def _judge(error: BaseException) -> tuple[str, str]:
    if isinstance(error, AssertionError):
        return "insane", f"{error}"[:200] or _place(error)
    link: BaseException | None = error
    while link is not None:
        text = str(link)
        if isinstance(link, MemoryError) or "can't allocate memory" in text or "Insufficient memory" in text:
            return "large", f"asks for more than {ADDRESS_SPACE >> 30} GiB: {_place(link)}: {text[:100]}"
        link = link.__cause__ or link.__context__
    return ("refused", "") if documented(error) else ("traceback", f"{_place(error)}: {str(error)[:150]!r}")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/site-packages/" not in f.filename and "/lib/python" not in f.filename]
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}"


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise KeyError(field)


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _work(reader: Reader, whole: Path, seed: int, numbers: range, pipe: Connection) -> None:
    """In a process of its own: one outcome after another, each announced first."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # OpenCV and libpng complain there
    limit = _status("VmSize") + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    usual = _cost(reader, whole)
    with tempfile.TemporaryDirectory() as scratch:
        for number in numbers:
            mutation = damage(reader, whole, seed, number, Path(scratch) / "input")
            pipe.send((number, mutation))
            pipe.send((number, attempt(reader, Path(scratch) / "input", mutation, usual)))
    pipe.send(None)


def _cost(reader: Reader, folder: Path) -> tuple[float, int]:
    """Seconds of the processor and bytes that the whole input takes."""
    for _ in range(2):  # the first time imports things
        _reset_peak()
        before, began = _resident(), time.process_time()
        with contextlib.suppress(ValueError):  # weights of another model are refused
            reader.read(folder)
        cost = time.process_time() - began, _peak() - before
    return cost


def run(reader: Reader, count: int, seed: int, bar: tqdm) -> dict[int, Outcome]:
    """All mutations of a reader; one that kills or hangs its process is noted, and the rest goes on in another."""
    outcomes: dict[int, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        reader.write(whole)
        start, context = 0, multiprocessing.get_context("fork")
        while start < count:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(reader, whole, seed, range(start, count), theirs), daemon=True
            )
            process.start()
            theirs.close()
            last = _listen(ours, process, outcomes, bar)
            process.join()
            if last is None:
                raise RuntimeError(f"{reader.name}: the whole input cannot be read: --reader {reader.name!r} --only -1")
            start = last + 1
    return outcomes


def _listen(pipe: Connection, process, outcomes: dict[int, Outcome], bar: tqdm) -> int | None:
    """Take outcomes until the process ends; the number of the last mutation, None where none was begun."""
    number, mutation = None, ""
    while True:
        if not pipe.poll(HANGS):
            process.kill()
            if number is None:
                return None
            outcomes[number] = Outcome("slow", mutation, f"no end within {HANGS:.0f} s")
            bar.update()
            return number
        try:
            message = pipe.recv()
        except EOFError:
            process.join()
            if number is None:
                return None
            outcomes[number] = Outcome("killed", mutation, f"exit status {process.exitcode}")
            bar.update()
            return number
        if message is None:
            return number
        number, what = message
        if isinstance(what, Outcome):
            outcomes[number] = what
            bar.update()
        else:
            mutation = what


def show(reader: Reader, seed: int, number: int) -> None:
    """One mutation in this process, with its traceback; -1 is the whole input."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        whole.mkdir()
        reader.write(whole)
        damaged = Path(folder) / "input" if number >= 0 else whole
        if number >= 0:
            print(damage(reader, whole, seed, number, damaged))
        reader.read(damaged)
        print("accepted")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--mutations", type=int, default=20_000, help="over all readers")
    options.add_argument("--reader", action="append", help="of the table's names; all where none is given")
    options.add_argument("--only", type=int, help="the number of one mutation, to see its traceback")
    a = options.parse_args()
    readers = [reader for reader in all_readers() if a.reader is None or reader.name in a.reader]
    if not readers:
        options.error(f"--reader {a.reader}: expected {', '.join(reader.name for reader in all_readers())}")
    if a.only is not None:
        show(readers[0], a.seed, a.only)
        return 0
    torch.set_num_threads(1)
    total = sum(reader.share for reader in readers)
    rows, faults = [], defaultdict[tuple[str, str, str], list[tuple[int, str]]](list)
    with tqdm(total=a.mutations, unit=" mutations", mininterval=1.0, disable=None) as bar:
        for reader in readers:
            bar.set_postfix_str(reader.name, refresh=False)
            began = time.perf_counter()
            outcomes = run(reader, max(round(a.mutations * reader.share / total), 1), a.seed, bar)
            counts = Counter(outcome.kind for outcome in outcomes.values())
            milliseconds = 1e3 * (time.perf_counter() - began) / len(outcomes)
            rows.append(
                {"reader": reader.name, "mutations": len(outcomes)}
                | {kind: counts[kind] for kind in OUTCOMES}
                | {"ms each": milliseconds}
            )
            for number, outcome in outcomes.items():
                if outcome.kind not in ("accepted", "refused"):
                    cause = outcome.detail.split(": ")[0] if outcome.kind != "insane" else outcome.detail
                    faults[reader.name, outcome.kind, cause].append((number, f"{outcome.mutation}: {outcome.detail}"))
    rows.append({"reader": "all"} | {key: sum(row[key] for row in rows) for key in ("mutations", *OUTCOMES)})
    listed = [
        {"reader": name, "fault": kind, "times": len(found), "first": found[0][0], "what": found[0][1][:240]}
        for (name, kind, _), found in sorted(faults.items())
    ]
    publish("Damaged inputs", rows, torch.device("cpu"), a.out, faults=listed)
    return 1 if listed else 0


if __name__ == "__main__":
    sys.exit(main())
