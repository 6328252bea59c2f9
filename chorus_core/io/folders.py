"""RGB-D data sets that keep an image file and a pose each frame: 7-Scenes, ScanNet export, Replica (NICE-SLAM)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from chorus_core.frames import CameraIntrinsics
from chorus_core.io.folder_calibration import (
    OWN_FILE,
    centred,
    first_size,
    guessed,
    number_field,
    own_calibration,
    pinhole,
    read_object,
    sens_calibration,
)
from chorus_core.io.sequence import Calibration, FileSequence, FrameFiles, SequenceError, stamp_of_number
from chorus_core.io.text_rows import Leniency, read_rows, row_of_numbers

_log = logging.getLogger(__name__)

COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")
_DEPTH_SUFFIXES = (".png", ".pgm", ".tiff", ".tif")
_ANY_CASE = (*_DEPTH_SUFFIXES, *(suffix.upper() for suffix in _DEPTH_SUFFIXES))
_MILLIMETRES = 1000.0
_REPLICA_DEPTH_SCALE = 6553.5

_SEVEN_SCENES = Calibration(CameraIntrinsics(585.0, 585.0, 320.0, 240.0, 640, 480), _MILLIMETRES)
"""Of the Kinect depth camera, as the 7-Scenes page (Shotton et al. 2013) gives them."""

_SCANNET_DEPTH_SIZE = (640, 480)


def open_numbered_folder(folder: Path) -> FileSequence:
    """``color/N.jpg|png``, ``depth/N.png`` (uint16; 0 and 65535 = none), ``pose/N.txt`` (4x4 world_from_camera, OpenCV
    axes, metres) and ``intrinsics.json`` (fx, fy, cx, cy, width, height, perhaps depth_scale, default 1000 a metre)
    there or in the parent.

    Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    calibration = own_calibration(folder, _MILLIMETRES)
    if calibration is None:
        raise SequenceError(f"{folder}: no {OWN_FILE} in it or in its parent: nothing else gives the calibration")
    return _numbered_frames(folder).sequence(lambda: calibration)


def open_seven_scenes(folder: Path) -> FileSequence:
    """``frame-NNNNNN.{color.png|jpg,depth.png|pgm,pose.txt}``: 7-Scenes, 12-Scenes (Valentin et al. 2016), 3RScan.

    Calibration is ``intrinsics.json`` in the folder or its parent, else ``info.txt`` (12-Scenes) or ``_info.txt``
    (3RScan) there. 7-Scenes has none, and its depth is not registered to colour: the published f = 585, c = (320, 240)
    is taken then, with a warning. Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    frames = _Frames(folder)
    for color in sorted(path for path in folder.glob("frame-*.color.*") if path.suffix.lower() in COLOR_SUFFIXES):
        stem = color.name[: -len(f".color{color.suffix}")]
        depths = (folder / f"{stem}.depth{suffix}" for suffix in _ANY_CASE)
        frames.add(color, depths, folder / f"{stem}.pose.txt", stem.removeprefix("frame-"))
    return frames.sequence(lambda: _of_seven_scenes(folder, frames))


def _of_seven_scenes(folder: Path, frames: _Frames) -> Calibration:
    own = own_calibration(folder, _MILLIMETRES)
    if own is not None:
        return own
    infos = [parent / name for parent in (folder, folder.parent) for name in ("info.txt", "_info.txt")]
    if info := next((path for path in infos if path.is_file()), None):
        return sens_calibration(info)
    return guessed(_SEVEN_SCENES, folder, frames.depth_size(), "the published camera of 7-Scenes")


def open_scannet(folder: Path) -> FileSequence:
    """ScanNet export: ``color/N.jpg``, ``depth/N.png`` (mm), ``pose/N.txt``, ``intrinsic/intrinsic_depth.txt``.

    Colour is resized to the depth images, whose intrinsics hold; the two cameras' small offset is ignored, as is usual
    for this data set. Exports at another size keep the file of 640x480, told by its principal point, which is then
    brought to theirs; ``intrinsics.json`` comes first where there is one. Poses of ``-inf`` (tracking lost) are dropped
    and counted. Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    frames = _numbered_frames(folder)
    return frames.sequence(lambda: _of_scannet(folder, frames))


def _of_scannet(folder: Path, frames: _Frames) -> Calibration:
    own = own_calibration(folder, _MILLIMETRES)
    if own is not None:
        return own
    path, size = folder / "intrinsic" / "intrinsic_depth.txt", frames.depth_size()
    k = _read_matrix(path)
    for width, height in (size, _SCANNET_DEPTH_SIZE):  # the file does not say which
        camera = pinhole([k[0, 0], k[1, 1], k[0, 2], k[1, 2], width, height], path, guess=True)
        if centred(camera):
            if (width, height) != size:
                _log.warning("%s is of %dx%d images: brought to the %dx%d of these", path, width, height, *size)
            return Calibration(camera, _MILLIMETRES)
    raise SequenceError(
        f"{path}: principal point {k[0, 2]:g}, {k[1, 2]:g} lies in the middle neither of these depth images "
        f"({size[0]}x{size[1]}) nor of ScanNet's 640x480: an {OWN_FILE} in {folder} says what they are"
    )


def open_replica(folder: Path) -> FileSequence:
    """Replica as rendered for NICE-SLAM (Zhu et al. 2022): ``results/frameNNNNNN.jpg``, ``results/depthNNNNNN.png``,
    ``traj.txt`` (a row-major 4x4 world_from_camera a line, OpenCV axes) and ``cam_params.json`` in the folder or its
    parent (``camera``: w, h, fx, fy, cx, cy, scale; 6553.5 a metre where scale is absent); ``intrinsics.json`` comes
    first where there is one. Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    frames = _Frames(folder)
    poses = _read_trajectory(folder / "traj.txt", frames.broken)
    for color in sorted((folder / "results").glob("frame*.*")):
        if color.suffix.lower() in COLOR_SUFFIXES:
            number = color.stem.removeprefix("frame")
            frames.add(color, [color.with_name(f"depth{number}.png")], poses, number)
    return frames.sequence(lambda: _of_replica(folder))


def _of_replica(folder: Path) -> Calibration:
    own = own_calibration(folder, _REPLICA_DEPTH_SCALE)
    if own is not None:
        return own
    candidates = [parent / "cam_params.json" for parent in (folder, folder.parent)]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise SequenceError(f"{folder}: no cam_params.json and no {OWN_FILE} in it or in its parent")
    tree = read_object(path)
    camera = tree.get("camera", tree)
    intrinsics = pinhole([number_field(camera, k, path) for k in ("fx", "fy", "cx", "cy", "w", "h")], path)
    return Calibration(intrinsics, number_field(camera, "scale", path, _REPLICA_DEPTH_SCALE))


class _Frames:
    """Frames of a folder as they are found; those without partner or with a broken pose are left out and counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[FrameFiles] = []
        self.dropped = Counter[str]()
        self.broken = Leniency(folder, SequenceError)
        self._numbers: set[str] = set()

    def add(self, color: Path, depths: Iterable[Path], poses: Path | Sequence[np.ndarray | None], number: str) -> None:
        """A colour image; its depth image is the first of ``depths`` that exists.

        Args:
            poses: the frame's pose file, or the poses [4, 4] of all numbers, None where a line is broken.
            number: the frame's, as its name has it.
        """
        if not (number.isascii() and number.isdigit()):
            self.dropped["no frame number in the name"] += 1
            self.broken.leave_out(SequenceError(f"{color}: expected a frame number in the name, got {number!r}"))
        elif number in self._numbers:
            self.dropped["colour of a frame twice"] += 1
        elif (depth := next((path for path in depths if path.is_file()), None)) is None:
            self.dropped["no depth"] += 1
        elif not (poses.is_file() if isinstance(poses, Path) else int(number) < len(poses)):
            self.dropped["no pose"] += 1
        elif (pose := self._read(poses) if isinstance(poses, Path) else poses[int(number)]) is None:
            self.dropped["pose not readable"] += 1
        else:
            self._numbers.add(number)
            self.files.append(FrameFiles(color, depth, pose, stamp_of_number(int(number)), timed=False))

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            return _read_matrix(path)
        except SequenceError as error:
            self.broken.leave_out(error)
            return None

    def depth_size(self) -> tuple[int, int]:
        """Width and height of the depth images."""
        return first_size([frame.depth for frame in self.files])

    def sequence(self, calibration: Callable[[], Calibration]) -> FileSequence:
        """The frames as a recording.

        Args:
            calibration: reads it; asked once the frames are known to be good.

        Raises:
            SequenceError: most poses are broken, or no frame is usable.
        """
        self.broken.settle(len(self.files))
        if not self.files:
            raise SequenceError(f"{self.folder}: no frame with colour, depth and pose; dropped: {dict(self.dropped)}")
        return FileSequence(str(self.folder), self.files, calibration(), self.dropped)


def _numbered_frames(folder: Path) -> _Frames:
    """Frames of ``color/N.*``, ``depth/N.*``, ``pose/N.txt`` in order of N."""
    images = [path for path in (folder / "color").glob("[!.]*") if path.suffix.lower() in COLOR_SUFFIXES]
    if not images:
        raise SequenceError(f"{folder / 'color'}: no .jpg or .png images")
    frames = _Frames(folder)
    for color in sorted(images, key=lambda path: (path.stem.zfill(20), path.name)):
        depths = (folder / "depth" / f"{color.stem}{suffix}" for suffix in _ANY_CASE)
        frames.add(color, depths, folder / "pose" / f"{color.stem}.txt", color.stem)
    return frames


def _read_trajectory(path: Path, broken: Leniency) -> list[np.ndarray | None]:
    """Poses [4, 4] of ``traj.txt``, one a line; None where the line is broken."""
    poses: list[np.ndarray | None] = []
    for place, words in read_rows(path, SequenceError):
        try:
            row = row_of_numbers(place, words, 16, "16 numbers of a 4x4 pose", SequenceError)
            poses.append(np.array(row).reshape(4, 4))
        except SequenceError as error:
            broken.leave_out(error)
            poses.append(None)
    return poses


def _read_matrix(path: Path) -> np.ndarray:
    """A 4x4 matrix of a text file, float64; ``inf`` and ``nan`` are numbers."""
    rows = read_rows(path, SequenceError)
    if len(rows) != 4:
        raise SequenceError(f"{path}: expected a 4x4 matrix, got {len(rows)} rows")
    return np.array([row_of_numbers(place, words, 4, "4 numbers", SequenceError) for place, words in rows])
