"""Scenes as a folder of ``.npy`` arrays, as SceneSplat (Li et al. 2025) and Pointcept lay them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from chorus_core.gaussians import Gaussians
from chorus_core.io.arrays import read_npy
from chorus_core.io.atomic import atomic_path
from chorus_core.io.errors import ReadError
from chorus_core.io.scene import GaussianRows, scene_of_gaussians

LABELS = ("normal", "segment", "instance")
"""Optional arrays that the layout itself names: float [N, 3], int [N], int [N] (-1 = ignore)."""

_SHAPES = {"coord": (3,), "color": (3,), "opacity": (), "quat": (4,), "scale": (3,)}


class SceneFolderError(ReadError):
    """A scene folder that cannot be used. The message names the file and the expected form."""


def save_scene(folder: str | Path, gaussians: Gaussians, **labels: np.ndarray) -> None:
    """Write ``coord`` (metres, float32 [N, 3]), ``color`` (uint8 [N, 3]), ``opacity`` ([0, 1], float32 [N]), ``quat``
    (wxyz, float32 [N, 4]), ``scale`` (standard deviations in metres, float32 [N, 3]), and an array each label.

    Everything but colour, which is rounded to 8 bits, is kept bit for bit. Each file appears whole or not at all;
    ``coord`` is written last, and arrays of :data:`LABELS` left by an earlier save are removed.

    Args:
        folder: made if absent.
        gaussians: on any device.
        labels: further arrays [N, ...] by name, such as ``segment`` or ``instance``.

    Raises:
        SceneFolderError: a label of wrong name or length, or Gaussians with non-finite values.
    """
    folder = Path(folder)
    arrays = {name: np.asarray(values) for name, values in labels.items()}
    for name, values in arrays.items():
        if name in _SHAPES:
            raise SceneFolderError(f"label {name!r}: the name is taken by the Gaussians")
        if values.ndim == 0 or len(values) != len(gaussians) or values.dtype.kind == "O":
            raise SceneFolderError(
                f"label {name!r} is {values.dtype} {values.shape}: expected numbers ({len(gaussians)}, ...)"
            )
    cpu = gaussians.to("cpu")
    for field in ("means", "quats", "scales", "opacities", "colors"):
        if not torch.isfinite(getattr(cpu, field)).all():
            raise SceneFolderError(f"Gaussians.{field} has non-finite values: expected finite ones")
    arrays["color"] = (cpu.colors.detach().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    for name, tensor in (
        ("opacity", cpu.opacities),
        ("quat", cpu.quats),
        ("scale", cpu.scales),
        ("coord", cpu.means),
    ):
        arrays[name] = tensor.detach().to(torch.float32).numpy()
    for name in LABELS:
        if name not in labels:
            (folder / f"{name}.npy").unlink(missing_ok=True)
    for name, values in arrays.items():
        with atomic_path(folder / f"{name}.npy") as temporary:
            np.save(temporary, values, allow_pickle=False)


def load_scene(folder: str | Path) -> tuple[Gaussians, dict[str, np.ndarray]]:
    """Read a scene folder.

    Returns:
        the Gaussians, float32 on the CPU, quaternions normalised; and every further array in the folder with an
        entry each Gaussian, by file name without suffix. Arrays from 16 MiB up are memory-mapped (copy on write).

    Raises:
        SceneFolderError: a file is missing, not an array, of the wrong shape, type or range, or has coordinates that
            float32 would spoil.
    """
    rows = read_folder_rows(folder)
    gaussians = scene_of_gaussians(folder, rows, movable=False, error=SceneFolderError).content
    return gaussians, _load_labels(Path(folder), len(rows.means))


def read_folder_rows(folder: str | Path) -> GaussianRows:
    """Decode the Gaussians of a scene folder, without a look at the values of single rows.

    Raises:
        SceneFolderError: a file is missing, not an array, or of the wrong shape, type or convention.
    """
    folder = Path(folder)
    missing = [f"{name}.npy" for name in _SHAPES if not (folder / f"{name}.npy").is_file()]
    if missing:
        raise SceneFolderError(f"{folder}: not a scene folder: no {', '.join(missing)}")
    core = {name: read_npy(folder / f"{name}.npy", SceneFolderError) for name in _SHAPES}
    if core["opacity"].ndim == 2 and core["opacity"].shape[1] == 1:
        core["opacity"] = core["opacity"][:, 0]
    count = len(core["coord"]) if core["coord"].ndim else 0
    for name, shape in _SHAPES.items():
        _check_shape(folder, name, core[name], (count, *shape))
    if core["color"].dtype != np.uint8:
        raise SceneFolderError(f"{folder}/color.npy is {core['color'].dtype}: expected uint8")
    opacity, scale = core["opacity"], core["scale"]
    if _most((opacity < 0) | (opacity > 1)):
        raise SceneFolderError(
            f"{folder}/opacity.npy spans {opacity.min():g}..{opacity.max():g}: expected [0, 1] (after the sigmoid)"
        )
    if _most((scale < 0).any(axis=1)):
        raise SceneFolderError(f"{folder}/scale.npy has {scale.min():g}: expected metres >= 0 (after the exponential)")
    return GaussianRows(core["coord"], core["quat"], scale, opacity, core["color"] / np.float32(255.0))


def _most(wrong: np.ndarray) -> bool:
    """Whether it is the convention that is wrong, rather than some rows."""
    return len(wrong) > 0 and float(wrong.mean()) > 0.5


def _check_shape(folder: Path, name: str, values: np.ndarray, shape: tuple[int, ...]) -> None:
    if values.shape != shape or values.dtype.kind not in "fui":
        raise SceneFolderError(f"{folder}/{name}.npy is {values.dtype} {values.shape}: expected numbers {shape}")


def _load_labels(folder: Path, count: int) -> dict[str, np.ndarray]:
    labels = {}
    for path in sorted(folder.glob("[!.]*.npy")):
        if path.stem in _SHAPES:
            continue
        values = read_npy(path, SceneFolderError)
        if values.ndim and len(values) == count:
            labels[path.stem] = values
        elif path.stem in LABELS:
            # other names may be whatever the data set needs (index arrays, features of a subset)
            raise SceneFolderError(f"{path} has shape {values.shape}: expected ({count}, ...), as coord.npy has")
    return labels
