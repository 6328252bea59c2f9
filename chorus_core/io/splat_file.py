"""Gaussians in the ``.splat`` format of web viewers: 32 bytes each, no header, no view dependence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from chorus_core.gaussians import Gaussians

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])
"""Centre and standard deviations in the scene's unit, colour and opacity, quaternion wxyz as 128 q + 128."""


class SplatFormatError(ValueError):
    """A ``.splat`` file that cannot be used. The message names the file and the expected form."""


def load_splat(path: str | Path) -> Gaussians:
    """Read a ``.splat`` file; float32, on the CPU, quaternions normalised.

    Raises:
        SplatFormatError: its size is no multiple of a record, or it holds values that are no Gaussians.
        FileNotFoundError: no such file.
    """
    data = Path(path).read_bytes()
    if len(data) % RECORD.itemsize:
        raise SplatFormatError(f"{path} has {len(data)} bytes: expected a multiple of {RECORD.itemsize}")
    records = np.frombuffer(data, RECORD)
    quats = (records["rotation"].astype(np.float32) - 128.0) / 128.0
    norms = np.linalg.norm(quats, axis=1, keepdims=True)  # [N, 1]
    for name, wrong, expected in (
        ("centres", ~np.isfinite(records["mean"]).all(axis=1), "finite ones"),
        ("scales", ~(np.isfinite(records["scale"]) & (records["scale"] >= 0)).all(axis=1), "finite ones >= 0"),
        ("rotations", norms[:, 0] == 0, "a quaternion, not (128, 128, 128, 128)"),
    ):
        if wrong.any():
            raise SplatFormatError(f"{path}: {name} of {int(wrong.sum())} of {len(records)}: expected {expected}")
    rgba = records["rgba"].astype(np.float32) / 255.0
    arrays = (records["mean"], quats / norms, records["scale"], rgba[:, 3], rgba[:, :3])
    return Gaussians(*(torch.from_numpy(np.array(values, np.float32, order="C")) for values in arrays))
