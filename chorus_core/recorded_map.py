"""A recording to a map on disk, offline: all of it, whatever its size, or a reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from chorus_core.config import Config, MapConfig
from chorus_core.io.atomic import check_target
from chorus_core.io.errors import ReadError
from chorus_core.io.rgbd import RgbdSequence
from chorus_core.pipeline import Pipeline


class EmptyMapError(ReadError):
    """A recording of which no Gaussian came. The message says why."""


def check_map_path(path: Path) -> None:
    """Say before the work whether a map can be saved there.

    Raises:
        ValueError: the name does not end in .ply: the features of NAME.v1 and NAME.v2 would have one name.
        OSError: a folder is there, or the like.
    """
    if path.suffix != ".ply":
        raise ValueError(f"--out {path}: expected NAME.ply (a labelled map)")
    check_target(path)


def map_recording(
    name: Path, sequence: RgbdSequence, out: Path, config: Config, bare: bool, onto: Path | None = None
) -> str:
    """Fuse all frames, encode what came of them unless the map is to be ``bare``, and save it at ``out``.

    Args:
        name: of the recording, for messages.
        onto: a saved map to go on with, whose frame the recording's poses are in.

    Returns:
        What was done, in a line.

    Raises:
        EmptyMapError: no Gaussian came of it; what is at ``out`` stays.
        ConfigError, CheckpointError, TextSideError, VocabularyError: as :class:`Pipeline` does.
        SequenceError: not one frame could be read.
        MapFileError, MapStateError: as :meth:`Pipeline.load` does.
        OSError: the disk is full, or the like.
    """
    pipeline, depths = Pipeline(config), _Depths(config.map)
    if onto is not None:
        pipeline.load(onto)
    for frame in tqdm(sequence, total=len(sequence), desc="frames", disable=None):
        if len(pipeline.map) == 0:
            depths.add(frame.depth)
        pipeline.integrate(frame)
    count = len(pipeline.map.export().gaussians)
    status = pipeline.status()
    if count == 0:
        why = depths.why_none() or "none was seen often enough to be kept (map.min_hits, map.min_share, map.carve)"
        tail = f"{_drops(sequence.dropped)}; {out} is not written"
        raise EmptyMapError(f"{name}: no Gaussians from {status.frames} frames: {why}{tail}")
    if not bare:
        _encode(pipeline)
    saved = pipeline.save(out)
    held = f", {sum(status.held.values())} held back {status.held}" if status.held else ""
    written = len(pipeline.labelled_map()) or count
    return f"{saved}: {written} Gaussians from {status.frames} frames{_drops(sequence.dropped)}{held}"


def _drops(dropped: Mapping[str, int]) -> str:
    return f", {sum(dropped.values())} frames dropped {dict(dropped)}" if dropped else ""


def _encode(pipeline: Pipeline) -> None:
    total = len(pipeline.map)
    with tqdm(total=total, unit="G", desc="encode", disable=None) as bar:
        while (report := pipeline.encode_step(least=1)) is not None:
            bar.update(min(report.encoded, total - bar.n))


class _Depths:
    """What the depth images held until one was of use."""

    def __init__(self, config: MapConfig) -> None:
        self._config = config
        self._near, self._far = np.inf, 0.0
        self._usable = False

    def add(self, depth: np.ndarray) -> None:
        """A depth image, metres [H, W], 0 where there is none."""
        measured = depth[depth > 0]
        if measured.size:
            self._near, self._far = min(self._near, measured.min()), max(self._far, measured.max())
            used = (measured > self._config.depth_min) & (measured < self._config.depth_max)
            self._usable = self._usable or bool(used.any())

    def why_none(self) -> str:
        """Why no depth was used; empty where one was."""
        if self._usable:
            return ""
        if self._far == 0:
            return "no pixel has a depth (all are zero or not finite)"
        return (
            f"depths {self._near:.4g} to {self._far:.4g} m, used are {self._config.depth_min:g} to "
            f"{self._config.depth_max:g} (map.depth_min, map.depth_max): is their unit right?"
        )
