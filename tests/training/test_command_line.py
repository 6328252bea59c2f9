"""Mistakes of the user end in one line and status 2, whichever program of ``training`` is called."""

from __future__ import annotations

import runpy
import sys
import warnings
from pathlib import Path

import pytest

from training.command_line import run_command

BAD_PATHS = [
    ("pretrain", ["--data", "NONE", "--out", "OUT"], "NONE/train: no prepared scenes"),
    ("pretrain", ["--data", "NONE", "--out", "OUT", "--bank", "NONE"], "NONE: expected a language bank"),
    ("calibrate", ["--model", "NONE", "--scenes", "NONE", "--bank", "NONE", "--out", "OUT"], "no checkpoint 'NONE'"),
    ("calibrate", ["--model", "chorus_mini", "--scenes", "NONE", "--bank", "NONE", "--out", "OUT"], "NONE: expected a"),
    ("teach", ["--scenes", "NONE", "--bank", "NONE", "--trained-categories", "NONE", "--out", "OUT"], "NONE: expected"),
    ("teaching.mix", ["--teacher", "NONE", "--images", "NONE", "--labels", "NONE", "--out", "OUT"], "NONE: no photo"),
    ("teaching.start", ["--weights", "NONE", "--out", "OUT"], "NONE: missing"),
    ("scenes.generate", ["--assets", "NONE", "--out", "OUT", "--scenes", "1"], "NONE/manifest.csv: expected"),
    ("render_house", ["--assets", "NONE", "--out", "OUT"], "NONE/house/scene.json: expected"),
    ("language", ["--out", "OUT/bank.npz", "--more-descriptions", "NONE"], "No such file or directory: 'NONE'"),
    ("evaluate", ["house", "--model", "NONE", "--sequence", "NONE", "--out", "OUT"], "NONE: expected ground_truth"),
    (
        "ablate",
        ["--data", "NONE", "--rooms", "NONE", "--bank", "NONE", "--out", "OUT", "--no-training"],
        "NONE: expected a language bank",
    ),
]


@pytest.mark.parametrize(("module", "arguments", "named"), BAD_PATHS, ids=[module for module, *_ in BAD_PATHS])
def test_a_bad_path_is_named_in_one_line(
    tmp_path: Path,
    module: str,
    arguments: list[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def placed(text: str) -> str:
        return text.replace("NONE", str(tmp_path / "none")).replace("OUT", str(tmp_path / "out"))

    monkeypatch.setattr(sys, "argv", [module, *map(placed, arguments)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
        warnings.simplefilter("ignore", RuntimeWarning)  # the module was imported by another test
        runpy.run_module(f"training.{module}", run_name="__main__", alter_sys=True)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m training.{module}: error: ")
    assert placed(named) in error
    assert error.count("\n") == 1


def test_what_main_returns_is_the_status_and_faults_of_the_program_stay_errors() -> None:
    for returned, status in ((None, 0), (0, 0), (1, 1), (130, 130)):
        with pytest.raises(SystemExit) as end:
            run_command(lambda returned=returned: returned)
        assert end.value.code == status

    def broken() -> None:
        raise KeyError("a fault")

    with pytest.raises(KeyError):
        run_command(broken)
