"""Agreement of two labellings of the same Gaussians: a second opinion where there is no ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chorus_core.io.arrays import read_npy
from chorus_core.io.errors import ReadError
from training.metrics import confusion


class AgreementError(ReadError):
    """Labellings that cannot be compared; the message says what they are and what was expected."""


def class_agreement(a: np.ndarray, b: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """How far two labellings agree, over what both label.

    Args:
        a, b: class of each Gaussian, negative = none [N].
        names: classes.

    Returns:
        ``both`` (share of Gaussians that both label), ``agreement`` (share of those with equal labels), ``miou`` (mean
        over classes that either uses), and ``classes``: for each of those ``iou``, ``of_a`` (share of a's that b
        agrees with), ``of_b``, the counts ``a`` and ``b``, and ``a_taken_for`` (b's most frequent other label).
        Shares of nothing are NaN.

    Raises:
        AgreementError: lengths differ, or a label has no name.
    """
    a, b = np.asarray(a), np.asarray(b)
    for which, labels in (("a", a), ("b", b)):
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise AgreementError(f"{which} is {labels.dtype} {labels.shape}: expected integers (N,)")
        if len(labels) and int(labels.max()) >= len(names):
            raise AgreementError(f"{which} has the label {int(labels.max())}: expected less than {len(names)} names")
    if len(a) != len(b):
        raise AgreementError(f"a labels {len(a)} Gaussians, b {len(b)}: expected the same ones")
    both = (a >= 0) & (b >= 0)
    table = confusion(a[both].astype(np.int64), b[both].astype(np.int64), len(names))[:, :-1]
    classes = {}
    for i, name in enumerate(names):
        in_a, in_b, in_both = int(table[i].sum()), int(table[:, i].sum()), int(table[i, i])
        if in_a or in_b:
            others = table[i].copy()
            others[i] = 0
            classes[name] = {
                "iou": in_both / (in_a + in_b - in_both),
                "of_a": _share(in_both, in_a),
                "of_b": _share(in_both, in_b),
                "a": in_a,
                "b": in_b,
                "a_taken_for": names[int(others.argmax())] if others.any() else "",
            }
    return {
        "both": _share(int(both.sum()), len(a)),
        "agreement": _share(int(np.trace(table)), int(table.sum())),
        "miou": float(np.mean([row["iou"] for row in classes.values()])) if classes else float("nan"),
        "classes": classes,
    }


def read_labels(path: str | Path) -> np.ndarray:
    """A labelling stored as ``.npy``: integers [N].

    Raises:
        AgreementError: unreadable, or not such an array.
    """
    try:
        labels = read_npy(path, AgreementError)
    except OSError as error:
        raise AgreementError(f"{path}: {error.strerror}") from error
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise AgreementError(f"{path}: expected integers (N,)")
    return labels


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
