"""SIGINT and SIGTERM from a program's first import to its last moment. Imports nothing heavy: it comes first."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The program was told to end while it started. Like KeyboardInterrupt no Exception: nobody is to swallow it."""


class StopSignals:
    """What a signal does depends on how far the program is; the exit status is the same, however many come.

    1. While modules are imported it ends the process at once: there is nothing to clean up, and an exception raised in
       the middle of an import may come out as a traceback, or not at all.
    2. In :meth:`raising` the first one raises :class:`Stopped`.
    3. Otherwise it only sets :attr:`stopped`: a handler that takes a lock can meet the thread that holds it.
    4. After :meth:`ignore` nothing. Python restores the default handlers at its end, which takes a second with large
       libraries loaded, and a signal would kill it there.

    Make one in the main thread.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._raising = False
        self._importing = False
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    @contextmanager
    def importing(self) -> Iterator[None]:
        """A signal ends the process at once while the block runs."""
        self._importing = True
        try:
            yield
        finally:
            self._importing = False

    @contextmanager
    def raising(self) -> Iterator[None]:
        """The first signal raises :class:`Stopped` while the block runs; at its end, at the latest."""
        self._raising = True
        try:
            if self.stopped:
                raise Stopped
            yield
        finally:
            self._raising = False
        if self.stopped:  # it was raised where no exception comes out of, as in a finalizer
            raise Stopped

    def ignore(self) -> None:
        """Signals do nothing from here on."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._importing:
            os._exit(0)
        first, self.stopped = not self.stopped, True
        if first and self._raising:
            raise Stopped
