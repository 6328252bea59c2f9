"""How the programs of ``training`` end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

MISTAKE = 2
"""Exit status after a mistake of the user, as argparse has it."""


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run a program's ``main`` and exit with what it returns, or 0.

    Errors that functions document (:class:`~chorus_core.io.errors.ReadError` and other ``ValueError``, and ``OSError``)
    name the file or the value that is wrong: they end in that line and status 2. Others are faults of the program, and
    end in a traceback.
    """
    try:
        status = main()
    except (ValueError, OSError) as error:
        print(f"{_program()}: error: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from error
    raise SystemExit(status or 0)


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return sys.argv[0] if spec is None else f"python -m {spec.name}"
