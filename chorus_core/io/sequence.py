"""What every RGB-D reader is: a sequence of posed frames that drops and counts what it cannot use."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError, RgbdFrame
from chorus_core.io.errors import ReadError
from chorus_core.io.images import ImageError, color_to_rgb, decode_compressed, depth_to_metres
from chorus_core.io.registration import color_in_view
from chorus_core.stamps import SECOND

_log = logging.getLogger(__name__)


def stamp_of_number(number: int) -> int:
    """A frame's stamp where a data set holds none: 30 frames a second, nanoseconds."""
    return number * SECOND // 30


_ASPECT_TOLERANCE = 0.01


class SequenceError(ReadError):
    """A recording, or one frame of it, that cannot be read. The message names the file or topic and what is wrong."""


@runtime_checkable
class RgbdSequence(Protocol):
    """Posed RGB-D frames in the order they were taken.

    ``len`` and indices count the frames that have colour, depth and a finite pose. Indexing raises SequenceError for a
    frame whose data turn out to be damaged; iterating drops it and counts it in ``dropped``.
    """

    dropped: Counter[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> RgbdFrame: ...

    def __iter__(self) -> Iterator[RgbdFrame]: ...


class SequenceBase(ABC):
    """Bookkeeping that the readers share.

    Attributes:
        name: for messages.
        dropped: frames not handed out, by reason; starts anew with each iteration.
    """

    def __init__(self, name: str, dropped: Mapping[str, int]) -> None:
        self.name = name
        self._dropped_at_open = Counter({reason: count for reason, count in dropped.items() if count})
        self.dropped = Counter(self._dropped_at_open)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> RgbdFrame: ...

    def _frames(self) -> Iterator[RgbdFrame | SequenceError]:
        """Each frame in order, or why there is none."""
        for index in range(len(self)):
            try:
                frame: RgbdFrame | SequenceError = self[index]
            except SequenceError as error:
                frame = error
            yield frame

    def __iter__(self) -> Iterator[RgbdFrame]:
        """All frames in order, without the damaged ones.

        Raises:
            SequenceError: not one frame could be read.
        """
        self.dropped = Counter(self._dropped_at_open)
        count, last_error = 0, None
        for frame in self._frames():
            if isinstance(frame, SequenceError):
                last_error = frame
                self.dropped["damaged"] += 1
                _log.warning("%s: frame dropped: %s", self.name, frame)
            else:
                count += 1
                yield frame
        if last_error is not None and count == 0:
            raise SequenceError(f"{self.name}: none of {len(self)} frames can be read: {last_error}") from last_error
        _log.info("%s: %d frames read, %s", self.name, count, self.drops())

    def drops(self) -> str:
        """The drop counts in words."""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in sorted(self.dropped.items()))
        return f"{sum(self.dropped.values())} dropped" + (f" ({reasons})" if reasons else "")

    def _position(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name}: frame {index} of {len(self)}")
        return index % len(self)


@dataclass(frozen=True)
class FrameFiles:
    """Where one frame lies: image files, ``world_from_camera`` [4, 4] (OpenCV axes, metres) and stamp in nanoseconds.

    ``timed``: whether the stamp is when it was taken; False where it was made up from its number.
    """

    color: Path
    depth: Path
    world_from_camera: np.ndarray
    stamp: int
    timed: bool = True


@dataclass(frozen=True)
class Calibration:
    """What the images of a folder are of.

    Attributes:
        intrinsics: of the depth images, or of the same view at another size.
        depth_scale: units of the 16-bit depth images a metre.
        color: of the colour images where their view is another one; both cameras are taken to stand in one place.
    """

    intrinsics: CameraIntrinsics
    depth_scale: float
    color: CameraIntrinsics | None = None


class FileSequence(SequenceBase):
    """Frames whose images are single files, read when asked for.

    Args:
        name: for messages.
        files: what each frame is made of; those whose pose is not finite are dropped and counted.
        calibration: of all of them.
        dropped: what the caller has dropped already, by reason.

    Raises:
        SequenceError: no frame is left.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[FrameFiles],
        calibration: Calibration,
        dropped: Mapping[str, int],
    ) -> None:
        usable = [entry for entry in files if np.isfinite(entry.world_from_camera).all()]
        super().__init__(name, {**dropped, "pose not finite": len(files) - len(usable)})
        if not np.isfinite(calibration.depth_scale) or calibration.depth_scale <= 0:
            raise SequenceError(f"{name}: depth scale {calibration.depth_scale}: expected units a metre > 0")
        if not usable:
            raise SequenceError(f"{name}: no frame with colour, depth and a finite pose; {self.drops()}")
        self._files = usable
        self._calibration = calibration
        level = logging.INFO if any(self.dropped.values()) else logging.DEBUG
        _log.log(level, "%s: %d frames, %s", name, len(usable), self.drops())

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> RgbdFrame:
        """The frame at an index (negative: from the end).

        Raises:
            IndexError: no such frame.
            SequenceError: its files are damaged or do not fit together.
        """
        files, known = self._files[self._position(index)], self._calibration
        try:
            color = color_to_rgb(read_image(files.color))
            stored = read_image(files.depth)
            depth = depth_to_metres(stored, "32FC1" if stored.dtype == np.float32 else "16UC1", known.depth_scale)
            if known.color is not None:
                color, seen = color_in_view(color, known.color, (depth.shape[1], depth.shape[0]), known.intrinsics)
                depth = np.where(seen, depth, np.float32(0))
            return make_frame(color, depth, known.intrinsics, files.world_from_camera, files.stamp, files.timed)
        except (ImageError, FrameError) as error:
            raise SequenceError(f"{files.color.name} with {files.depth.name}: {error}") from error


def read_image(path: Path) -> np.ndarray:
    """A JPEG, PNG, PNM or TIFF file as RGB uint8 [H, W, 3], grey uint8 [H, W] or depth as stored, uint16
    or float32 [H, W].

    Raises:
        ImageError: no such file, or it does not decode.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error
    try:
        return decode_compressed("", content)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def make_frame(
    color: np.ndarray,
    depth: np.ndarray,
    intrinsics: CameraIntrinsics,
    world_from_camera: np.ndarray,
    stamp: int,
    timed: bool = True,
) -> RgbdFrame:
    """A frame at the size of its depth image: colour [H', W', 3] and intrinsics of the same view are brought to it.

    Colour is resized by area averaging; depth [H, W], metres, is never resampled.

    Raises:
        FrameError: the sizes are not those of one view (aspect ratios differ by over 1 %), or the frame is unusable.
    """
    height, width = depth.shape
    for what, other_height, other_width in (
        ("colour image", *color.shape[:2]),
        ("intrinsics", intrinsics.height, intrinsics.width),
    ):
        if abs(other_width * height / (other_height * width) - 1.0) > _ASPECT_TOLERANCE:
            raise FrameError(
                f"{what} {other_width}x{other_height} against depth {width}x{height}: expected depth registered to "
                "the colour camera, with the same aspect ratio"
            )
    if color.shape[:2] != (height, width):
        color = cv2.resize(color, (width, height), interpolation=cv2.INTER_AREA)
    if (intrinsics.height, intrinsics.width) != (height, width):
        intrinsics = intrinsics.scaled(width, height)
    return RgbdFrame(color, depth, intrinsics, world_from_camera, stamp, timed)
