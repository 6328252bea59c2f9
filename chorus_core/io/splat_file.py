"""Gaussians in the ``.splat`` format of web viewers: 32 bytes each, no header, no view dependence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chorus_core.gaussians import Gaussians
from chorus_core.io.errors import ReadError
from chorus_core.io.scene import GaussianRows, scene_of_gaussians

RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])
"""Centre and standard deviations in the scene's unit, colour and opacity, quaternion wxyz as 128 q + 128."""


class SplatFormatError(ReadError):
    """A ``.splat`` file that cannot be used. The message names the file and the expected form."""


def load_splat(path: str | Path) -> Gaussians:
    """Read a ``.splat`` file; float32, on the CPU, quaternions normalised.

    Raises:
        SplatFormatError: its size is no multiple of a record, or it holds values that are no Gaussians.
        FileNotFoundError: no such file.
    """
    return scene_of_gaussians(path, read_splat_rows(path), movable=False, error=SplatFormatError).content


def read_splat_rows(path: str | Path) -> GaussianRows:
    """Decode a ``.splat`` file, without a look at the values.

    Raises:
        SplatFormatError: its size is no multiple of a record.
        FileNotFoundError: no such file.
    """
    data = Path(path).read_bytes()
    if len(data) % RECORD.itemsize:
        raise SplatFormatError(f"{path} has {len(data)} bytes: expected a multiple of {RECORD.itemsize}")
    records = np.frombuffer(data, RECORD)
    rgba = records["rgba"].astype(np.float32) / 255.0
    quats = (records["rotation"].astype(np.float32) - 128.0) / 128.0
    return GaussianRows(records["mean"], quats, records["scale"], rgba[:, 3], rgba[:, :3])
