"""Processes of their own: what is done is kept, what fails is said, places are taken in turn."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from training import runs
from training.runs import Run, RunError, run_all


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Writes the time it ran, and the GPUs it may see, to a file; fails where it is told to."""
    (tmp_path / "little_job.py").write_text(
        "import os, pathlib, sys, time\n"
        "name, out = sys.argv[1:3]\n"
        "print('working on', name)\n"
        "if name == 'bad': sys.exit('it broke')\n"
        "began = time.time(); time.sleep(0.3)\n"
        "gpus = os.environ.get('CUDA_VISIBLE_DEVICES', '')\n"
        "pathlib.Path(out, name).write_text(f'{began} {time.time()} {gpus}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    return "little_job"


def make(tmp_path: Path, module: str, *names: str) -> list[Run]:
    return [Run(tmp_path / "runs" / name, module, (name, tmp_path)) for name in names]


def test_finished_runs_are_kept(tmp_path: Path, module: str) -> None:
    some = make(tmp_path, module, "a", "b")
    run_all(some[:1])
    assert [run.done for run in some] == [True, False]
    first = (tmp_path / "a").read_text()
    run_all(some, jobs=2)
    assert (tmp_path / "a").read_text() == first
    assert (tmp_path / "b").is_file()
    assert (tmp_path / "runs" / "b" / "output.txt").read_text() == "working on b\n"


def test_a_failure_is_said_and_stops_no_other(tmp_path: Path, module: str) -> None:
    some = make(tmp_path, module, "bad", "a", "b")
    with pytest.raises(RunError, match=r"1 of 3 runs failed(.|\n)*little_job bad(.|\n)*code 1(.|\n)*it broke"):
        run_all(some, jobs=2)
    assert [run.done for run in some] == [False, True, True]
    with pytest.raises(RunError, match="1 of 1"):
        run_all(some)


def test_runs_share_the_time_and_the_gpus(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    names = ("a", "b", "c", "d")
    run_all(make(tmp_path, module, *names), jobs=2)
    spans = [(tmp_path / name).read_text().split() for name in names]
    assert sorted(gpu for _, _, gpu in spans) == ["3", "3", "5", "5"]
    times = [(float(began), float(ended)) for began, ended, _ in spans]
    at_once = max(sum(began <= t < ended for began, ended in times) for t, _ in times)
    assert at_once <= 2
