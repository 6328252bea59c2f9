"""TUM RGB-D benchmark sequences (Sturm et al. 2012)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chorus_core.frames import CameraIntrinsics
from chorus_core.io.poses import associate, interpolate_trajectory, matrix_from_pose
from chorus_core.io.sequence import FileSequence, FrameFiles, SequenceError

_DEPTH_SCALE = 5000.0
_SLOP = 0.02
_MAX_POSE_GAP = 0.2
"""Ground truth comes at 100 Hz; over a longer gap (markers occluded) it is not interpolated."""

_INTRINSICS = {
    "freiburg1": CameraIntrinsics(517.3, 516.5, 318.6, 255.3, 640, 480),
    "freiburg2": CameraIntrinsics(520.9, 521.0, 325.1, 249.7, 640, 480),
    "freiburg3": CameraIntrinsics(535.4, 539.2, 320.1, 247.6, 640, 480),
}
"""Of the colour cameras, as the benchmark's file format page lists them."""

_DEFAULT_INTRINSICS = CameraIntrinsics(525.0, 525.0, 319.5, 239.5, 640, 480)
"""The page's "ROS default", for folders that name no camera."""


def open_tum(folder: Path) -> FileSequence:
    """A TUM RGB-D folder: ``rgb.txt``, ``depth.txt``, ``groundtruth.txt`` and the images they list.

    Colour goes with the depth image nearest in time, 20 ms apart at most. The pose is that of the depth image's time,
    between two ground-truth samples (linear, slerp), and the frame's stamp is that time too. Depth is 1/5000 m,
    registered to colour. Intrinsics follow ``freiburg1``, ``2`` or ``3`` in the folder's name. Images are taken as
    they are: lens distortion, up to a few pixels in freiburg1 and 2, is not removed.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    color_stamps, color_paths = _read_list(folder, "rgb.txt")
    depth_stamps, depth_paths = _read_list(folder, "depth.txt")
    pairs = associate(color_stamps, depth_stamps, _SLOP)
    pose_stamps, poses = _read_ground_truth(folder / "groundtruth.txt")
    stamps = depth_stamps[[depth for _, depth in pairs]] if pairs else np.zeros(0)
    matrices, known = interpolate_trajectory(pose_stamps, poses, stamps, _MAX_POSE_GAP)
    files = [
        FrameFiles(color_paths[color], depth_paths[depth], matrix, float(stamp))
        for (color, depth), matrix, stamp, has_pose in zip(pairs, matrices, stamps, known, strict=True)
        if has_pose
    ]
    dropped = {"no depth within 20 ms": len(color_paths) - len(pairs), "no pose": int((~known).sum())}
    return FileSequence(str(folder), files, _intrinsics_of(folder), _DEPTH_SCALE, dropped)


def _intrinsics_of(folder: Path) -> CameraIntrinsics:
    name = folder.resolve().name.lower().replace("fr1", "freiburg1").replace("fr2", "freiburg2")
    name = name.replace("fr3", "freiburg3")
    return next((camera for key, camera in _INTRINSICS.items() if key in name), _DEFAULT_INTRINSICS)


def _read_list(folder: Path, name: str) -> tuple[np.ndarray, list[Path]]:
    """Stamps [M] and image paths of ``rgb.txt`` or ``depth.txt``."""
    stamps, paths = [], []
    root = folder.resolve()
    for where, words in _rows(folder / name):
        if len(words) != 2:
            raise SequenceError(f"{where}: expected 'stamp path', got {len(words)} words")
        path = (root / words[1]).resolve()
        if not path.is_relative_to(root):
            raise SequenceError(f"{where}: {words[1]!r} lies outside the sequence's folder")
        stamps.append(_stamp(words[0], where))
        paths.append(path)
    return np.array(stamps), paths


def _read_ground_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Strictly increasing stamps [M] and world_from_camera [M, 4, 4]; rows that are not finite are left out."""
    samples: dict[float, np.ndarray] = {}
    for where, words in _rows(path):
        if len(words) != 8:
            raise SequenceError(f"{where}: expected 'stamp tx ty tz qx qy qz qw', got {len(words)} words")
        try:
            values = [float(word) for word in words[1:]]
        except ValueError as error:
            raise SequenceError(f"{where}: {error}") from error
        matrix = matrix_from_pose(values[:3], values[3:])
        if np.isfinite(matrix).all():
            samples[_stamp(words[0], where)] = matrix
    stamps = sorted(samples)
    return np.array(stamps), np.array([samples[stamp] for stamp in stamps]).reshape(-1, 4, 4)


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    """(place, words) of each line that is no comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SequenceError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SequenceError(f"{path}: not text: {error}") from error
    rows = [(f"{path}:{number}", line.split()) for number, line in enumerate(lines, 1)]
    return [(where, words) for where, words in rows if words and not words[0].startswith("#")]


def _stamp(word: str, where: str) -> float:
    try:
        stamp = float(word)
    except ValueError:
        stamp = float("nan")
    if not np.isfinite(stamp):
        raise SequenceError(f"{where}: stamp {word!r}: expected finite seconds")
    return stamp
