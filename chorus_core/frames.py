"""The one input type of the pipeline: a posed RGB-D frame, checked once here and trusted everywhere after."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

REACH = 1e5
"""Metres from the world's origin within which float32 still tells voxels of a centimetre apart."""

_SHORTEST_FOCUS, _LONGEST_FOCUS = 0.044, 57.0
"""Focal lengths that a camera may have, in sides of its image: views of 170 degrees to one."""

_CROP = 0.5
"""Sides that a principal point may lie outside of an image that was cropped."""


class FrameError(ValueError):
    """A frame that cannot be used. The message names the field, the value and the expected form."""


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole intrinsics in pixels, without distortion.

    Convention: pixel (0, 0) is the centre of the top-left pixel; camera axes are OpenCV's
    (x right, y down, z forward).
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if not np.isfinite(values).all() or self.fx <= 0 or self.fy <= 0:
            raise FrameError(f"intrinsics fx, fy, cx, cy = {values}: expected finite values with fx, fy > 0")
        if self.width <= 0 or self.height <= 0:
            raise FrameError(f"intrinsics size {self.width}x{self.height}: expected positive width and height")

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, width: int, height: int) -> CameraIntrinsics:
        """From a 3x3 camera matrix ``[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]``."""
        k = np.asarray(matrix, dtype=np.float64)
        if k.shape != (3, 3):
            raise FrameError(f"camera matrix of shape {k.shape}: expected (3, 3)")
        return cls(float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), int(width), int(height))

    @property
    def matrix(self) -> np.ndarray:
        """Camera matrix, float64 [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def scaled(self, width: int, height: int) -> CameraIntrinsics:
        """The same camera with its image resized to ``width`` x ``height`` (pixel centres keep their meaning)."""
        sx, sy = width / self.width, height / self.height
        return CameraIntrinsics(
            self.fx * sx, self.fy * sy, (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5, width, height
        )


def check_view(camera: CameraIntrinsics) -> CameraIntrinsics:
    """The camera, or a FrameError where none has its focal lengths: a normalised matrix, or one of other units."""
    sides = camera.fx / camera.width, camera.fy / camera.height
    if not all(_SHORTEST_FOCUS <= side <= _LONGEST_FOCUS for side in sides):
        raise FrameError(
            f"focal lengths {camera.fx:g}, {camera.fy:g} at {camera.width}x{camera.height} pixels: expected "
            f"{_SHORTEST_FOCUS} to {_LONGEST_FOCUS} times the image's sides, a view of 1 to 170 degrees"
        )
    return camera


def check_center(camera: CameraIntrinsics) -> CameraIntrinsics:
    """The camera, or a FrameError where the principal point lies farther outside the image than a crop explains."""
    across, down = (camera.cx + 0.5) / camera.width, (camera.cy + 0.5) / camera.height
    if not (-_CROP <= across <= 1 + _CROP and -_CROP <= down <= 1 + _CROP):
        raise FrameError(
            f"principal point {camera.cx:g}, {camera.cy:g} (cx, cy) in images of {camera.width}x{camera.height}: "
            "expected it in the image, or half a side outside at most"
        )
    return camera


def check_rigid(transform: np.ndarray, name: str = "world_from_camera") -> np.ndarray:
    """A finite rigid transform as float64 [4, 4], or a FrameError that names it."""
    t = np.asarray(transform, dtype=np.float64)
    if t.shape != (4, 4):
        raise FrameError(f"{name} of shape {t.shape}: expected (4, 4)")
    if not np.isfinite(t).all():
        raise FrameError(f"{name} has non-finite entries: expected a rigid transform")
    rotation = t[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) or np.linalg.det(rotation) < 0:
        raise FrameError(f"{name} has a rotation part that is not a rotation (det {np.linalg.det(rotation):.3f})")
    if not np.allclose(t[3], (0.0, 0.0, 0.0, 1.0), atol=1e-6):
        raise FrameError(f"{name} has last row {t[3].tolist()}: expected [0, 0, 0, 1]")
    return t


@dataclass(frozen=True)
class RgbdFrame:
    """A colour image with registered depth, taken by one camera at one time.

    Attributes:
        color: RGB, uint8 [H, W, 3].
        depth: z-depth in metres, float32 [H, W]; 0 where there is none (non-finite and negative input becomes 0).
        intrinsics: of both images.
        world_from_camera: rigid, float64 [4, 4], OpenCV camera axes.
        stamp: nanoseconds since 1970, or any other beginning.
        timed: whether the stamp is when the frame was taken; False where it was made up from its number.

    Raises:
        FrameError: sizes differ, a type is wrong, or the pose is not rigid, finite and within reach of the origin.
    """

    color: np.ndarray
    depth: np.ndarray
    intrinsics: CameraIntrinsics
    world_from_camera: np.ndarray
    stamp: int
    timed: bool = True

    def __post_init__(self) -> None:
        h, w = self.intrinsics.height, self.intrinsics.width
        color, depth = np.asarray(self.color), np.asarray(self.depth)
        if color.dtype != np.uint8 or color.shape != (h, w, 3):
            raise FrameError(f"color is {color.dtype} {color.shape}: expected uint8 ({h}, {w}, 3)")
        if depth.shape != (h, w) or not np.issubdtype(depth.dtype, np.floating):
            raise FrameError(f"depth is {depth.dtype} {depth.shape}: expected floating metres ({h}, {w})")
        if not isinstance(self.stamp, (int, np.integer)) or isinstance(self.stamp, bool):
            raise FrameError(f"stamp {self.stamp!r}: expected nanoseconds, an integer")
        depth = depth.astype(np.float32, copy=False)
        world_from_camera = check_rigid(self.world_from_camera)
        position = world_from_camera[:3, 3]
        if np.abs(position).max() > REACH:
            raise FrameError(f"camera at {position.tolist()} m: expected within {REACH:g} m of the world's origin")
        valid = np.isfinite(depth) & (depth > 0)
        if not valid.all():
            depth = np.where(valid, depth, np.float32(0))
        object.__setattr__(self, "color", color)
        object.__setattr__(self, "depth", depth)
        object.__setattr__(self, "world_from_camera", world_from_camera)
        object.__setattr__(self, "stamp", int(self.stamp))

    def resized(self, width: int, height: int) -> RgbdFrame:
        """Colour by area averaging, depth by nearest neighbour (depth must never be mixed across an edge)."""
        import cv2

        if (width, height) == (self.intrinsics.width, self.intrinsics.height):
            return self
        return replace(
            self,
            color=cv2.resize(self.color, (width, height), interpolation=cv2.INTER_AREA),
            depth=cv2.resize(self.depth, (width, height), interpolation=cv2.INTER_NEAREST),
            intrinsics=self.intrinsics.scaled(width, height),
        )
