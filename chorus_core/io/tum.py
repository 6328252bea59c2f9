"""TUM RGB-D benchmark sequences (Sturm et al. 2012)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from chorus_core.frames import CameraIntrinsics
from chorus_core.io.folder_calibration import eth3d_calibration, first_size, guessed, own_calibration
from chorus_core.io.poses import associate, interpolate_trajectory, matrix_from_pose
from chorus_core.io.sequence import Calibration, FileSequence, FrameFiles, SequenceError
from chorus_core.io.text_rows import Leniency, read_rows, row_of_numbers
from chorus_core.stamps import SECOND, nanoseconds

_DEPTH_SCALE = 5000.0
_SLOP = 0.02
_MAX_POSE_GAP = 0.2
_MOST_SECONDS = 1 << 33  # whose nanoseconds 64 bits hold
"""Ground truth comes at 100 Hz; over a longer gap (markers occluded) it is not interpolated."""

_FREIBURG = {
    "1": CameraIntrinsics(517.3, 516.5, 318.6, 255.3, 640, 480),
    "2": CameraIntrinsics(520.9, 521.0, 325.1, 249.7, 640, 480),
    "3": CameraIntrinsics(535.4, 539.2, 320.1, 247.6, 640, 480),
}
"""Of the colour cameras, as the benchmark's file format page lists them."""

_BONN = CameraIntrinsics(542.822841, 542.576870, 315.593520, 237.756098, 640, 480)
"""Of the Bonn RGB-D Dynamic Dataset (Palazzolo et al. 2019), as its page gives it."""

_DEFAULT = CameraIntrinsics(525.0, 525.0, 319.5, 239.5, 640, 480)
"""The page's "ROS default", for folders that name no camera."""


def open_tum(folder: Path) -> FileSequence:
    """A TUM RGB-D folder: ``rgb.txt``, ``depth.txt``, ``groundtruth.txt`` and the images they list.

    Colour goes with the depth image nearest in time, 20 ms apart at most. The pose is that of the depth image's time,
    between two ground-truth samples (linear, slerp), and the frame's stamp is that time too. Depth is 1/5000 m,
    registered to colour. Images are taken as they are: lens distortion, up to a few pixels in freiburg1 and 2, is not
    removed. Lines that cannot be parsed are left out with a warning.

    Calibration, the first there is: ``intrinsics.json`` in the folder or its parent; ``calibration.txt`` (ETH3D SLAM,
    Schoeps et al. 2019); the published one where a word of the folder's name is freiburg1 to 3 (fr1 to 3) or bonn. Else
    the page's "ROS default" is taken, with a warning.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    color_stamps, color_paths, broken = _read_list(folder, "rgb.txt")
    depth_stamps, depth_paths, _ = _read_list(folder, "depth.txt")
    pairs = associate(color_stamps, depth_stamps, nanoseconds(_SLOP))
    pose_stamps, poses = _read_ground_truth(folder / "groundtruth.txt")
    stamps = depth_stamps[[depth for _, depth in pairs]] if pairs else np.zeros(0, np.int64)
    matrices, known = interpolate_trajectory(pose_stamps, poses, stamps, nanoseconds(_MAX_POSE_GAP))
    files = [
        FrameFiles(color_paths[color], depth_paths[depth], matrix, int(stamp))
        for (color, depth), matrix, stamp, has_pose in zip(pairs, matrices, stamps, known, strict=True)
        if has_pose
    ]
    dropped = {
        "no depth within 20 ms": len(color_paths) - len(pairs),
        "no pose": int((~known).sum()),
        "line not readable": broken,
    }
    return FileSequence(str(folder), files, _calibration_of(folder, [frame.depth for frame in files]), dropped)


def _calibration_of(folder: Path, depth_images: Sequence[Path]) -> Calibration:
    own = own_calibration(folder, _DEPTH_SCALE)
    if own is not None or not depth_images:
        return own or Calibration(_DEFAULT, _DEPTH_SCALE)
    words = re.split("[^a-z0-9]+", folder.resolve().name.lower())
    cameras = [_FREIBURG[found[1]] for word in words if (found := re.fullmatch("(?:freiburg|fr)([123])", word))]
    if "bonn" in words:
        cameras.append(_BONN)
    if (folder / "calibration.txt").is_file():
        return eth3d_calibration(folder / "calibration.txt", first_size(depth_images), _DEPTH_SCALE)
    if cameras:
        return Calibration(cameras[0], _DEPTH_SCALE)
    default = Calibration(_DEFAULT, _DEPTH_SCALE)
    return guessed(default, folder, first_size(depth_images), "the TUM page's default camera")


def _read_list(folder: Path, name: str) -> tuple[np.ndarray, list[Path], int]:
    """Stamps, nanoseconds [M], and image paths of ``rgb.txt`` or ``depth.txt``, and how many lines were left out."""
    stamps, paths = [], []
    root = folder.resolve()
    broken = Leniency(folder / name, SequenceError)
    for place, words in read_rows(folder / name, SequenceError):
        try:
            path = _inside(root, " ".join(words[1:]), place)
            if len(words) != 2 and not path.is_file():  # names may hold blanks
                raise SequenceError(f"{place}: expected 'stamp path', got {len(words)} words")
            stamp = _stamp(words[0], place)
        except SequenceError as error:
            broken.leave_out(error)
            continue
        stamps.append(stamp)
        paths.append(path)
    broken.settle(len(paths))
    return np.array(stamps, np.int64), paths, broken.broken


def _inside(root: Path, name: str, place: str) -> Path:
    """A file by its name within a folder; symbolic links may lead out, as data sets are put together with them."""
    path = Path(os.path.normpath(root / name))
    if "\0" in name or not path.is_relative_to(root):
        raise SequenceError(f"{place}: {name!r} lies outside the sequence's folder")
    return path


def _read_ground_truth(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Increasing stamps, nanoseconds [M], and world_from_camera [M, 4, 4]; rows that are not finite are left out."""
    samples: dict[int, np.ndarray] = {}
    broken = Leniency(path, SequenceError)
    for place, words in read_rows(path, SequenceError):
        try:
            values = row_of_numbers(place, words, 8, "'stamp tx ty tz qx qy qz qw'", SequenceError)
            stamp = _stamp(words[0], place)
        except SequenceError as error:
            broken.leave_out(error)
            continue
        matrix = matrix_from_pose(values[1:4], values[4:])
        if np.isfinite(matrix).all():
            samples[stamp] = matrix
    broken.settle(len(samples))
    stamps = sorted(samples)
    return np.array(stamps, np.int64), np.array([samples[stamp] for stamp in stamps]).reshape(-1, 4, 4)


def _stamp(word: str, where: str) -> int:
    """Nanoseconds of decimal seconds, all digits kept."""
    try:
        stamp = Decimal(word)
    except InvalidOperation:
        stamp = Decimal("nan")
    if not stamp.is_finite() or abs(stamp) >= _MOST_SECONDS:
        raise SequenceError(f"{where}: stamp {word!r}: expected finite seconds")
    return round(stamp * SECOND)
