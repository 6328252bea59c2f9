"""``python -m chorus_core`` and ``chorus``. Imports nothing heavy, so that Ctrl-C is answered from the first moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return the exit status: 0, 2 after a mistake of the user, 130 after Ctrl-C."""
    try:
        with _ended_at_once():
            from chorus_core.command_line import run
        return run(arguments)
    except KeyboardInterrupt:
        print("chorus: interrupted", file=sys.stderr)
        return INTERRUPTED


def program() -> None:
    """The whole program: never returns."""
    status = main()
    # Python's end takes a second with large libraries loaded, and an exception there would come out as a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Ctrl-C ends the process while the block imports: raised there, it may come out as a traceback, or not at all."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a program around this one sees to it
        yield
        return
    try:
        before = signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    program()
