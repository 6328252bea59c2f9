"""Posed images of a ``transforms.json`` (nerfstudio): OpenGL camera axes, COLMAP pixels, lens distortion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError
from training.datasets.base import DatasetError, PosedImage
from training.datasets.files import read_json
from training.datasets.images import CV_FROM_GL, MILLIMETRES, read_color, read_depth, rigid

_MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "OPENCV_FISHEYE")
_IMAGE_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG")


@dataclass(frozen=True)
class Lens:
    """A camera with distortion in OpenCV's models.

    Attributes:
        intrinsics: of the image with and without distortion.
        coefficients: k1, k2, p1, p2 (OPENCV) or k1, k2, k3, k4 (fisheye); empty for a pinhole.
        fisheye: which model.
    """

    intrinsics: CameraIntrinsics
    coefficients: tuple[float, ...] = ()
    fisheye: bool = False

    def undistorted(self, image: np.ndarray, interpolation: int) -> np.ndarray:
        """What a pinhole camera of the same intrinsics would have taken; black where the lens saw nothing.

        Args:
            image: colour [H, W, 3] or depth [H, W].
            interpolation: of OpenCV.
        """
        if not any(self.coefficients):
            return image
        matrix, size = self.intrinsics.matrix, (self.intrinsics.width, self.intrinsics.height)
        coefficients = np.array(self.coefficients)
        if self.fisheye:
            maps = cv2.fisheye.initUndistortRectifyMap(matrix, coefficients, np.eye(3), matrix, size, cv2.CV_32FC1)
        else:
            maps = cv2.initUndistortRectifyMap(matrix, coefficients, np.eye(3), matrix, size, cv2.CV_32FC1)
        return cv2.remap(image, *maps, interpolation)


def read_transforms(
    path: Path,
    folder: Path | None = None,
    json_from_world: np.ndarray | None = None,
    every: int = 1,
    keys: Sequence[str] = ("frames",),
) -> list[PosedImage]:
    """Images of a ``transforms.json``, by file name.

    Cameras: ``fl_x, fl_y, cx, cy, w, h`` for all frames or each, models PINHOLE, OPENCV and OPENCV_FISHEYE with
    ``k1..k4, p1, p2``; what ``color`` and ``depth`` of an image return is undistorted. Pixels are COLMAP's (the corner
    of the image is (0, 0)), ours half a pixel less. ``transform_matrix`` is world_from_camera with OpenGL camera axes
    in metres. Frames marked ``is_bad`` are left out. ``depth_file_path`` is a 16-bit PNG, millimetres unless
    ``depth_unit_scale_factor`` (metres a unit) says otherwise.

    Args:
        path: the file.
        folder: what ``file_path`` is relative to; the file's own by default.
        json_from_world: [4, 4], undone: what the writer turned the world by.
        every: step between frames.
        keys: lists of frames to read.

    Raises:
        DatasetError: a field is missing or malformed, or an image is not there.
    """
    tree = read_json(path, dict)
    folder = path.parent if folder is None else folder
    world_from_json = np.eye(4) if json_from_world is None else np.linalg.inv(json_from_world)
    frames: list[dict[str, Any]] = []
    for key in keys:
        entries = tree.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"{path}: {key}: expected a list of objects")
        frames += [entry for entry in entries if not entry.get("is_bad", False)]
    if not frames:
        raise DatasetError(f"{path}: no frames in {', '.join(keys)}")
    names = [_text(path, frame, "file_path") for frame in frames]
    order = sorted(range(len(frames)), key=lambda k: names[k])[::every]
    return [_image(path, folder, tree, names[k], frames[k], world_from_json) for k in order]


def _image(
    path: Path, folder: Path, tree: Mapping[str, Any], name: str, frame: Mapping[str, Any], world_from_json: np.ndarray
) -> PosedImage:
    color = next((p for suffix in _IMAGE_SUFFIXES if (p := folder / f"{name}{suffix}").is_file()), None)
    if color is None:
        raise DatasetError(f"{path}: file_path {name!r}: no such image in {folder}")
    try:
        json_from_camera = np.asarray(frame["transform_matrix"], np.float64).reshape(4, 4)
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{path}: {name}: transform_matrix: expected 4x4 numbers ({error!r})") from error
    lens = _lens(path, {**tree, **frame})
    depth = None
    if frame.get("depth_file_path"):
        scale = 1.0 / _number(path, tree, "depth_unit_scale_factor", 1.0 / MILLIMETRES)
        depth = partial(_read_depth, folder / frame["depth_file_path"], scale, lens)
    return PosedImage(
        name,
        lens.intrinsics,
        rigid(world_from_json @ json_from_camera @ CV_FROM_GL, path, name),
        partial(_read_color, color, lens),
        depth,
    )


def _read_color(path: Path, lens: Lens) -> np.ndarray:
    return lens.undistorted(read_color(path, (lens.intrinsics.width, lens.intrinsics.height)), cv2.INTER_LINEAR)


def _read_depth(path: Path, scale: float, lens: Lens) -> np.ndarray:
    size = lens.intrinsics.width, lens.intrinsics.height
    return lens.undistorted(read_depth(path, scale, size), cv2.INTER_NEAREST)


def _lens(path: Path, camera: Mapping[str, Any]) -> Lens:
    model = camera.get("camera_model", "OPENCV")
    if model not in _MODELS:
        raise DatasetError(f"{path}: camera_model {model!r}: expected one of {', '.join(_MODELS)}")
    fx, cx, cy, width, height = (_number(path, camera, key) for key in ("fl_x", "cx", "cy", "w", "h"))
    fy = _number(path, camera, "fl_y", fx)
    names = {"OPENCV": ("k1", "k2", "p1", "p2"), "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4")}.get(model, ())
    try:
        intrinsics = CameraIntrinsics(fx, fy, cx - 0.5, cy - 0.5, int(width), int(height))
    except FrameError as error:
        raise DatasetError(f"{path}: {error}") from error
    return Lens(intrinsics, tuple(_number(path, camera, name, 0.0) for name in names), model == "OPENCV_FISHEYE")


def _number(path: Path, tree: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = tree.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DatasetError(f"{path}: {key} = {value!r}: expected a number")
    return float(value)


def _text(path: Path, tree: Mapping[str, Any], key: str) -> str:
    value = tree.get(key)
    if not isinstance(value, str) or not value:
        raise DatasetError(f"{path}: {key} = {value!r}: expected a name")
    return value
