"""Ctrl-C ends the command line with status 130 and no traceback, whatever it is doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chorus_core import __main__, command_line

WORKING = """
import time
import chorus_core.command_line
def work(arguments):
    print("ready", flush=True)
    time.sleep(60)
chorus_core.command_line.run = work
from chorus_core.__main__ import program
program()
"""


def interrupt(arguments: list[str], *paths: Path) -> tuple[int, str]:
    """Exit status and standard error of a program that is interrupted once it has said so."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as program:
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        error = program.communicate(timeout=60)[1]
    return program.returncode, error


def test_while_torch_is_imported(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "torch.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    assert interrupt(["-m", "chorus_core", "info", "chorus_mini"], tmp_path, repository) == (130, "")


def test_while_it_works(repository: Path) -> None:
    assert interrupt(["-c", WORKING], repository) == (130, "chorus: interrupted\n")


def test_a_program_around_it_keeps_its_own_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    for handler in (signal.default_int_handler, signal.SIG_IGN, lambda *_: None):
        before = signal.signal(signal.SIGINT, handler)
        try:
            monkeypatch.setattr(command_line, "run", lambda _: 7)
            assert __main__.main(["info", "chorus_mini"]) == 7
            assert signal.getsignal(signal.SIGINT) is handler
        finally:
            signal.signal(signal.SIGINT, before)
