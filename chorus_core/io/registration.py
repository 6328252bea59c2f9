"""Colour of one camera as another camera in the same place sees it."""

from __future__ import annotations

import cv2
import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError
from chorus_core.io.image_header import MAX_PIXELS


def color_in_view(
    color: np.ndarray, color_camera: CameraIntrinsics, size: tuple[int, int], camera: CameraIntrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """A colour image as a camera of other focal lengths and principal point would have taken it.

    Both are pinholes at one place with the same axes, so pixels map by a scale and a shift of each axis. Colour is
    first brought to the other's focal lengths by area averaging, then shifted with bilinear interpolation.

    Args:
        color: uint8 [H', W', 3].
        color_camera: of ``color``, at any size.
        size: width W and height H of the view.
        camera: of the view, at any size.

    Returns:
        colour uint8 [H, W, 3], and which pixels the colour camera saw, bool [H, W].

    Raises:
        FrameError: the focal lengths differ beyond sense.
    """
    source, target = color_camera.scaled(color.shape[1], color.shape[0]), camera.scaled(*size)
    width, height = round(source.width * target.fx / source.fx), round(source.height * target.fy / source.fy)
    if not 0 < width * height <= MAX_PIXELS:
        raise FrameError(f"colour camera of fx {source.fx:g} against depth of fx {target.fx:g}: expected like views")
    shrinks = width < source.width
    color = cv2.resize(color, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    source = source.scaled(width, height)

    # u_source = fx_source / fx_target * (u_target - cx_target) + cx_source
    sx, sy = source.fx / target.fx, source.fy / target.fy
    tx, ty = source.cx - sx * target.cx, source.cy - sy * target.cy
    columns, rows = sx * np.arange(size[0]) + tx, sy * np.arange(size[1]) + ty
    seen_x, seen_y = ((at >= -0.5) & (at <= end - 0.5) for at, end in ((columns, width), (rows, height)))
    map_x, map_y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
    moved = cv2.remap(color, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved, seen_y[:, None] & seen_x[None, :]
