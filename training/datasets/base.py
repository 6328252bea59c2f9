"""What preparation needs of a scene of any data set: posed images, perhaps Gaussians, perhaps labelled points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from chorus_core.frames import CameraIntrinsics
from chorus_core.gaussians import Gaussians
from chorus_core.io.errors import ReadError
from training.prepared import InstanceInfo


class DatasetError(ReadError):
    """A data set that cannot be read; the message names the file, what it has and what was expected."""


@dataclass(frozen=True)
class PosedImage:
    """An image on disk with its camera; read when asked for.

    Attributes:
        name: of the image, unique within the scene.
        intrinsics: of the undistorted image that ``color`` returns.
        world_from_camera: rigid, float64 [4, 4], OpenCV axes.
        color: reads sRGB, uint8 [H, W, 3].
        depth: reads z-depth registered to the image, metres, float32 [H, W], 0 = none; None without a depth camera.
    """

    name: str
    intrinsics: CameraIntrinsics
    world_from_camera: np.ndarray
    color: Callable[[], np.ndarray]
    depth: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class LabelledPoints:
    """Ground truth on points of the scene's surface.

    Attributes:
        points: metres, world frame, float32 [M, 3].
        segment: place in ``classes``, -1 = ignore, int64 [M].
        instance: -1 = ignore, int64 [M].
        classes: names.
        instances: things that ``instance`` counts through; empty where nothing more is known of them.
    """

    points: np.ndarray
    segment: np.ndarray
    instance: np.ndarray
    classes: tuple[str, ...]
    instances: tuple[InstanceInfo, ...] = ()


@dataclass(frozen=True)
class SceneSource:
    """A scene of a data set, before preparation.

    Attributes:
        name: unique in the data set.
        subset: "train", "val" or "test", by the data set's own lists.
        images: posed images in the order they were taken; may be empty where Gaussians and labels are all there is.
        gaussians: reads Gaussians that come with the data set; None where they are to be made from the images.
        labels: reads the ground truth; None where there is none.
        voxel_size: metres between the Gaussians that come with it; 0 where they lie on no grid.
    """

    name: str
    subset: str
    images: Sequence[PosedImage]
    gaussians: Callable[[], Gaussians] | None = None
    labels: Callable[[], LabelledPoints] | None = None
    voxel_size: float = 0.0
