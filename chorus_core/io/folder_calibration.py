"""Calibration files that lie beside the images of an RGB-D folder, each in the form of the data set that writes it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError, check_center, check_view
from chorus_core.io.documents import DocumentError, read_json
from chorus_core.io.image_header import MAX_PIXELS, ImageError, image_header
from chorus_core.io.sequence import Calibration, SequenceError
from chorus_core.io.text_rows import read_rows, row_of_numbers

_log = logging.getLogger(__name__)

OWN_FILE = "intrinsics.json"
_ASPECT_TOLERANCE = 0.01


def own_calibration(folder: Path, depth_scale: float) -> Calibration | None:
    """``intrinsics.json`` in the folder or its parent (fx, fy, cx, cy, width, height, perhaps depth_scale), if any.

    Args:
        depth_scale: units a metre where the file does not say.

    Raises:
        SequenceError: it is malformed.
    """
    for path in (folder / OWN_FILE, folder.parent / OWN_FILE):
        if path.is_file():
            tree = read_object(path)
            values = [number_field(tree, key, path) for key in ("fx", "fy", "cx", "cy", "width", "height")]
            scale = number_field(tree, "depth_scale", path, depth_scale)
            return Calibration(pinhole(values, path), scale)
    return None


def eth3d_calibration(path: Path, size: tuple[int, int], depth_scale: float) -> Calibration:
    """``calibration.txt`` of ETH3D SLAM: ``fx fy cx cy`` of images of a size (width, height) that it does not name.

    Raises:
        SequenceError: it is malformed, or cannot be of images of that size.
    """
    rows = read_rows(path, SequenceError)
    place, words = rows[0] if rows else (str(path), [])
    if len(words) > 4:
        _log.warning("%s: numbers after fx fy cx cy are left out: lens distortion is not removed", place)
    values = row_of_numbers(place, words[:4], 4, "fx fy cx cy", SequenceError)
    intrinsics = pinhole([*values, *size], path, guess=True)
    if not centred(intrinsics):
        raise SequenceError(
            f"{path}: principal point {intrinsics.cx:g}, {intrinsics.cy:g} in images of {size[0]}x{size[1]}: they were "
            f"resized or cropped; an {OWN_FILE} with the size it holds for says how"
        )
    return Calibration(intrinsics, depth_scale)


def sens_calibration(path: Path) -> Calibration:
    """``info.txt`` (12-Scenes) or ``_info.txt`` (3RScan): two cameras, their sizes and the depth's units a metre.

    Raises:
        SequenceError: it is malformed.
    """
    fields = {}
    for _, words in read_rows(path, SequenceError):
        name, _, value = " ".join(words).partition("=")
        fields[name.strip()] = value.split()

    def numbers(name: str, count: int) -> list[float]:
        return row_of_numbers(f"{path}: {name}", fields.get(name, []), count, f"{count} numbers", SequenceError)

    def camera(kind: str) -> CameraIntrinsics:
        size = numbers(f"m_{kind}Width", 1) + numbers(f"m_{kind}Height", 1)
        k = np.array(numbers(f"m_calibration{kind.title()}Intrinsic", 16)).reshape(4, 4)
        return pinhole([k[0, 0], k[1, 1], k[0, 2], k[1, 2], *size], path)

    return Calibration(camera("depth"), numbers("m_depthShift", 1)[0], camera("color"))


def first_size(images: Sequence[Path]) -> tuple[int, int]:
    """Width and height of the first of some image files whose header can be read.

    Raises:
        SequenceError: none can.
    """
    last: Exception | None = None
    for path in images:
        try:
            header = image_header(path.read_bytes())
        except (OSError, ImageError) as error:
            last = error
        else:
            return header.width, header.height
    raise SequenceError(f"none of {len(images)} depth images can be read: {last}") from last


def guessed(calibration: Calibration, folder: Path, size: tuple[int, int], why: str) -> Calibration:
    """A data set's usual calibration for a folder that does not give its own: said in a warning.

    Raises:
        SequenceError: images of that size (width, height) cannot be of that camera.
    """
    k = calibration.intrinsics
    remedy = f"an {OWN_FILE} there (fx, fy, cx, cy, width, height, depth_scale) says what it is"
    if abs(size[0] * k.height / (size[1] * k.width) - 1.0) > _ASPECT_TOLERANCE:
        raise SequenceError(
            f"{folder}: no calibration, and images of {size[0]}x{size[1]} cannot be of {why} ({k.width}x{k.height}): "
            f"{remedy}"
        )
    _log.warning("%s: no calibration: %s is a guess (fx %.1f at %d pixels); %s", folder, why, k.fx, k.width, remedy)
    return calibration


def centred(camera: CameraIntrinsics) -> bool:
    """Whether a principal point can be that of an uncropped image: within a tenth of its sides of its middle."""
    return abs(camera.cx / camera.width - 0.5) < 0.1 and abs(camera.cy / camera.height - 0.5) < 0.1


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object.

    Raises:
        SequenceError: no such file, or not one.
    """
    try:
        return read_json(path)
    except OSError as error:
        raise SequenceError(f"{path}: {error.strerror}") from error
    except DocumentError as error:
        raise SequenceError(str(error)) from error


def number_field(tree: Any, key: str, path: Path, default: float | None = None) -> float:
    """A number of an object.

    Raises:
        SequenceError: it is missing, or no finite number.
    """
    value = tree.get(key, default) if isinstance(tree, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or value != value:
        raise SequenceError(f"{path}: {key} = {str(value)[:40]!r}: expected a number")
    return float(value)


def pinhole(values: list[float], path: Path, guess: bool = False) -> CameraIntrinsics:
    """A camera of fx, fy, cx, cy, width and height.

    Args:
        guess: whether the size is one; the principal point is not checked then, as :func:`centred` tells more.

    Raises:
        SequenceError: they are not one's.
    """
    *k, width, height = values
    if not (np.isfinite([width, height]).all() and width == int(width) and height == int(height)):
        raise SequenceError(f"{path}: image size {width}x{height}: expected whole pixels")
    try:
        camera = check_view(CameraIntrinsics(*map(float, k), int(width), int(height)))
        if not guess:
            check_center(camera)
    except FrameError as error:
        raise SequenceError(f"{path}: {error}") from error
    if camera.width * camera.height > MAX_PIXELS:
        raise SequenceError(f"{path}: {camera.width}x{camera.height} pixels: expected {MAX_PIXELS} pixels at most")
    return camera
