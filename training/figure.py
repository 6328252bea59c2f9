"""Curves as picture files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chorus_core.io.atomic import atomic_path


@contextmanager
def save_figure(path: Path, columns: int = 1) -> Iterator[list[Any]]:
    """Axes side by side; the picture is written when the block ends, without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, columns, figsize=(5.5 * columns, 5.0), constrained_layout=True, squeeze=False)
    yield list(axes[0])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


def shared_legend(axes: list[Any]) -> None:
    """One legend of all curves, below the axes, where it hides none of them."""
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=min(len(axes), 2), fontsize=8)
