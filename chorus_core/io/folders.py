"""RGB-D data sets that keep an image file and a pose each frame: 7-Scenes, ScanNet export, Replica (NICE-SLAM)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError
from chorus_core.io.images import ImageError
from chorus_core.io.sequence import FRAME_PERIOD, FileSequence, FrameFiles, SequenceError, read_image

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_SEVEN_SCENES_INTRINSICS = CameraIntrinsics(585.0, 585.0, 320.0, 240.0, 640, 480)
"""Of the Kinect depth camera, as the 7-Scenes page (Shotton et al. 2013) gives them."""

_MILLIMETRES = 1000.0


def open_numbered_folder(folder: Path) -> FileSequence:
    """``color/N.jpg|png``, ``depth/N.png`` (uint16; 0 and 65535 = none), ``pose/N.txt`` (4x4 world_from_camera, OpenCV
    axes, metres) and ``intrinsics.json`` (fx, fy, cx, cy, width, height, perhaps depth_scale, default 1000 a metre).

    Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    intrinsics, scale = _read_intrinsics_json(folder / "intrinsics.json")
    files, dropped = _numbered_files(folder)
    return FileSequence(str(folder), files, intrinsics, scale, dropped)


def open_seven_scenes(folder: Path) -> FileSequence:
    """A sequence of the original 7-Scenes: ``frame-NNNNNN.{color.png,depth.png,pose.txt}``.

    The data set has no calibration and its depth is not registered to colour. An ``intrinsics.json`` in the folder or
    its parent is used where there is one, else the published f = 585, c = (320, 240). Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    intrinsics, scale = _SEVEN_SCENES_INTRINSICS, _MILLIMETRES
    for candidate in (folder / "intrinsics.json", folder.parent / "intrinsics.json"):
        if candidate.is_file():
            intrinsics, scale = _read_intrinsics_json(candidate)
            break
    files, dropped = [], Counter[str]()
    for color in sorted(folder.glob("frame-*.color.png")):
        stem = color.name.removesuffix(".color.png")
        depth, pose = folder / f"{stem}.depth.png", folder / f"{stem}.pose.txt"
        _add_frame(files, dropped, color, depth, pose, _number(stem.removeprefix("frame-"), color))
    return FileSequence(str(folder), files, intrinsics, scale, dropped)


def open_scannet(folder: Path) -> FileSequence:
    """ScanNet export: ``color/N.jpg``, ``depth/N.png`` (mm), ``pose/N.txt``, ``intrinsic/intrinsic_depth.txt``.

    Colour is resized to the depth images, whose intrinsics hold; the two cameras' small offset is ignored, as is usual
    for this data set. Poses of ``-inf`` (tracking lost) are dropped and counted. Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    files, dropped = _numbered_files(folder)
    matrix = _read_matrix(folder / "intrinsic" / "intrinsic_depth.txt")
    if not files:
        raise SequenceError(f"{folder}: no frame with colour, depth and pose")
    try:
        height, width = read_image(files[0].depth).shape[:2]
        intrinsics = CameraIntrinsics.from_matrix(matrix[:3, :3], width, height)
    except (ImageError, FrameError) as error:
        raise SequenceError(f"{folder}: {error}") from error
    return FileSequence(str(folder), files, intrinsics, _MILLIMETRES, dropped)


def open_replica(folder: Path) -> FileSequence:
    """Replica as rendered for NICE-SLAM (Zhu et al. 2022): ``results/frameNNNNNN.jpg``, ``results/depthNNNNNN.png``,
    ``traj.txt`` (a row-major 4x4 world_from_camera a line, OpenCV axes) and ``cam_params.json`` in the folder or its
    parent (``camera``: w, h, fx, fy, cx, cy, scale; 6553.5 a metre where scale is absent). Stamps are N / 30 s.

    Raises:
        SequenceError: a file is missing or malformed, or no frame is usable.
    """
    candidates = [parent / "cam_params.json" for parent in (folder, folder.parent)]
    params_path = next((path for path in candidates if path.is_file()), None)
    if params_path is None:
        raise SequenceError(f"{folder}: no cam_params.json in it or in its parent")
    tree = _read_json(params_path)
    camera = tree.get("camera", tree)
    fx, fy, cx, cy, width, height = (_number_field(camera, k, params_path) for k in ("fx", "fy", "cx", "cy", "w", "h"))
    scale = _number_field(camera, "scale", params_path, 6553.5)
    intrinsics = _intrinsics(fx, fy, cx, cy, width, height, params_path)

    poses = _read_numbers(folder / "traj.txt", columns=16).reshape(-1, 4, 4)
    files, dropped = [], Counter[str]()
    for color in sorted((folder / "results").glob("frame*.*")):
        if color.suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        number = _number(color.stem.removeprefix("frame"), color)
        depth = color.with_name(f"depth{color.stem.removeprefix('frame')}.png")
        if not depth.is_file():
            dropped["no depth"] += 1
        elif number >= len(poses):
            dropped["no pose"] += 1
        else:
            files.append(FrameFiles(color, depth, poses[number], number * FRAME_PERIOD))
    return FileSequence(str(folder), files, intrinsics, scale, dropped)


def _numbered_files(folder: Path) -> tuple[list[FrameFiles], Counter[str]]:
    """Frames of ``color/N.*``, ``depth/N.png``, ``pose/N.txt`` in order of N, and counts of those without all three."""
    images = [p for p in (folder / "color").glob("[!.]*") if p.suffix.lower() in _IMAGE_SUFFIXES]
    if not images:
        raise SequenceError(f"{folder / 'color'}: no .jpg or .png images")
    files: list[FrameFiles] = []
    dropped = Counter[str]()
    for number, color in sorted((_number(path.stem, path), path) for path in images):
        depth, pose = folder / "depth" / f"{color.stem}.png", folder / "pose" / f"{color.stem}.txt"
        _add_frame(files, dropped, color, depth, pose, number)
    return files, dropped


def _add_frame(
    files: list[FrameFiles], dropped: Counter[str], color: Path, depth: Path, pose: Path, number: int
) -> None:
    if not depth.is_file():
        dropped["no depth"] += 1
    elif not pose.is_file():
        dropped["no pose"] += 1
    else:
        files.append(FrameFiles(color, depth, _read_matrix(pose), number * FRAME_PERIOD))


def _number(text: str, path: Path) -> int:
    if not (text.isascii() and text.isdigit()):
        raise SequenceError(f"{path}: expected a frame number in the name, got {text!r}")
    return int(text)


def _read_numbers(path: Path, columns: int) -> np.ndarray:
    """Rows of numbers, float64 [M, columns]; ``inf`` and ``nan`` are numbers."""
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        values = np.array([[float(word) for word in row] for row in rows])
    except OSError as error:
        raise SequenceError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SequenceError(f"{path}: expected rows of {columns} numbers: {error}") from error
    if values.ndim != 2 or values.shape[1] != columns:
        raise SequenceError(f"{path}: expected rows of {columns} numbers, got shape {values.shape}")
    return values


def _read_matrix(path: Path) -> np.ndarray:
    values = _read_numbers(path, columns=4)
    if values.shape != (4, 4):
        raise SequenceError(f"{path}: expected a 4x4 matrix, got shape {values.shape}")
    return values


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SequenceError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SequenceError(f"{path}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise SequenceError(f"{path}: expected an object, got {type(tree).__name__}")
    return tree


def _read_intrinsics_json(path: Path) -> tuple[CameraIntrinsics, float]:
    tree = _read_json(path)
    values = [_number_field(tree, key, path) for key in ("fx", "fy", "cx", "cy", "width", "height")]
    return _intrinsics(*values, path), _number_field(tree, "depth_scale", path, _MILLIMETRES)


def _number_field(tree: Any, key: str, path: Path, default: float | None = None) -> float:
    value = tree.get(key, default) if isinstance(tree, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SequenceError(f"{path}: {key} = {value!r}: expected a number")
    return float(value)


def _intrinsics(
    fx: float, fy: float, cx: float, cy: float, width: float, height: float, path: Path
) -> CameraIntrinsics:
    if width != int(width) or height != int(height):
        raise SequenceError(f"{path}: image size {width}x{height}: expected whole pixels")
    try:
        return CameraIntrinsics(fx, fy, cx, cy, int(width), int(height))
    except FrameError as error:
        raise SequenceError(f"{path}: {error}") from error
