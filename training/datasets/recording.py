"""One's own recording: an RGB-D sequence, posed images, or Gaussians alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from chorus_core.io.gaussian_ply import load_gaussians
from chorus_core.io.rgbd import open_sequence
from training.datasets.base import DatasetError, SceneSource
from training.datasets.files import SUBSETS, require_step
from training.datasets.images import LazyImages, SequenceImages
from training.datasets.nerfstudio import read_transforms


def open_recording(
    root: str | Path, *, subset: str = "train", every: int = 1, upright: bool = False, name: str | None = None
) -> list[SceneSource]:
    """One scene: what ``chorus_core.io.rgbd.open_sequence`` opens, a folder with ``transforms.json``, or a ``.ply``.

    Args:
        root: the folder or file.
        subset: which subset the scene is to be in.
        every: step between frames.
        upright: turn a recording whose world has no known vertical so that +z points up; RGB-D only.
        name: of the scene; the file's or folder's by default.

    Raises:
        DatasetError: no such path, or an unknown subset.
    """
    root = Path(root)
    require_step(every)
    if not root.exists():
        raise DatasetError(f"{root}: no such file or folder")
    if subset not in SUBSETS:
        raise DatasetError(f"subset = {subset!r}: expected one of {', '.join(SUBSETS)}")
    name = name or (root.stem if root.is_file() else root.resolve().name)
    if root.suffix == ".ply":
        return [SceneSource(name, subset, (), gaussians=partial(load_gaussians, root))]
    transforms = root if root.suffix == ".json" else root / "transforms.json"
    if transforms.is_file():
        return [SceneSource(name, subset, LazyImages(partial(read_transforms, transforms, every=every)))]
    return [SceneSource(name, subset, LazyImages(partial(_frames, root, every, upright)))]


def _frames(root: Path, every: int, upright: bool) -> SequenceImages:
    return SequenceImages(open_sequence(root, upright=upright), every)
