"""Frames that are kept: to adapt to, to lift features from, and to fuse again where poses are corrected.

A frame is worth keeping for the surface it shows, and for the side it shows it from. Space is cut into the map's
blocks; what a frame shows of each is a *view* of it: the block, the direction of the camera (eight around, three in
height), and its distance by octaves. Frames are kept that show enough views no kept one does. When there is no more
room, the one goes that alone shows the fewest views.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import cv2
import numpy as np

from chorus_core.config import KeyframeConfig
from chorus_core.frames import CameraIntrinsics, RgbdFrame
from chorus_core.mapping.geometry import motion_between

_JPEG_QUALITY = 95
_MILLIMETRES = 1000.0
_FARTHEST = np.iinfo(np.uint16).max
# A camera that moved less than this since a frame was offered shows nothing new.
_METRES, _RADIANS = 0.1, 0.1
_AROUND, _LEVELS, _OCTAVES = 8, 3, 4


@dataclass(frozen=True)
class Keyframe:
    """A frame, compressed: colour as JPEG (quality 95), depth as PNG in millimetres, up to 65.535 m.

    Attributes:
        number: of the keyframe, from 0 on, never used again.
        color, depth: encoded images.
        intrinsics: of both.
        world_from_camera: rigid, float64 [4, 4].
        stamp: nanoseconds.
    """

    number: int
    color: bytes
    depth: bytes
    intrinsics: CameraIntrinsics
    world_from_camera: np.ndarray
    stamp: int

    @classmethod
    def of(cls, frame: RgbdFrame, number: int) -> Keyframe:
        """Compress a frame; what is farther than 65.535 m has no depth then."""
        millimetres = np.rint(frame.depth * _MILLIMETRES)
        millimetres = np.where(millimetres <= _FARTHEST, millimetres, 0).astype(np.uint16)
        bgr = cv2.cvtColor(frame.color, cv2.COLOR_RGB2BGR)
        color, depth = (
            cv2.imencode(ending, image, options)[1].tobytes()
            for ending, image, options in (
                (".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)),
                (".png", millimetres, (cv2.IMWRITE_PNG_COMPRESSION, 1)),
            )
        )
        return cls(number, color, depth, frame.intrinsics, frame.world_from_camera.copy(), frame.stamp)

    @property
    def nbytes(self) -> int:
        """Of both images."""
        return len(self.color) + len(self.depth)

    def frame(self) -> RgbdFrame:
        """Decompressed: depth to half a millimetre, colours nearly as they were."""
        bgr = cv2.imdecode(np.frombuffer(self.color, np.uint8), cv2.IMREAD_COLOR)
        millimetres = cv2.imdecode(np.frombuffer(self.depth, np.uint8), cv2.IMREAD_UNCHANGED)
        color, depth = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), millimetres.astype(np.float32) / _MILLIMETRES
        return RgbdFrame(color, depth, self.intrinsics, self.world_from_camera, self.stamp)


class KeyframeStore:
    """Keyframes, bounded in number and bytes. Safe to read from any thread; one thread offers.

    Args:
        config: bounds, and how much news a frame must bring; no keyframes at all make an empty store.
    """

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._number = 0
        self._kept: dict[int, tuple[Keyframe, frozenset[int]]] = {}
        self._used = 0  # bytes
        self._shown: dict[
            int, tuple[int, int]
        ] = {}  # of each view: keyframes that show it, and the sum of their numbers
        self._alone: dict[int, int] = {}  # of each keyframe: views that it alone shows
        self._last: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of all images."""
        return self._used

    def keyframes(self) -> list[Keyframe]:
        """All, the oldest first."""
        with self._lock:
            return [keyframe for keyframe, _ in self._kept.values()]

    def wants(self, frame: RgbdFrame) -> bool:
        """Whether a frame may bring news at all: the camera has moved since the last one offered."""
        if self._config.count == 0:
            return False
        if self._last is None:
            return True
        metres, radians = motion_between(self._last, frame.world_from_camera)
        return metres > _METRES or radians > _RADIANS

    def offer(self, frame: RgbdFrame, keys: np.ndarray, centers: np.ndarray) -> bool:
        """Keep a frame if it shows enough that is new; whether it was kept.

        Args:
            frame: that was fused.
            keys: of the map's blocks that it touched, int64 [B].
            centers: of these, metres [B, 3].
        """
        if not self.wants(frame) or not len(keys):
            return False
        self._last = frame.world_from_camera.copy()
        views = _views(keys, centers, frame.world_from_camera[:3, 3])
        with self._lock:
            new = sum(view not in self._shown for view in views)
            if new < self._config.novelty * len(views):
                return False
        keyframe = Keyframe.of(frame, self._number)
        if keyframe.nbytes > self._most_bytes:
            return False
        with self._lock:
            self._number += 1
            self._add(keyframe, views)
            while len(self._kept) > self._config.count or self._used > self._most_bytes:
                self._drop(self._least_missed(keyframe.number))
        return True

    def clear(self) -> None:
        """Forget all; numbers go on."""
        with self._lock:
            self._kept, self._shown, self._alone, self._used, self._last = {}, {}, {}, 0, None

    @property
    def _most_bytes(self) -> int:
        return self._config.mib << 20

    def _least_missed(self, newest: int) -> int:
        """The keyframe with the fewest views that it alone shows; of as few the oldest; never the newest."""
        return min((n for n in self._kept if n != newest), key=lambda number: (self._alone[number], number))

    def _add(self, keyframe: Keyframe, views: frozenset[int]) -> None:
        number, self._alone[keyframe.number] = keyframe.number, 0
        self._kept[number] = keyframe, views
        self._used += keyframe.nbytes
        for view in views:
            count, total = self._shown.get(view, (0, 0))
            if count < 2:  # it alone, or the one that was alone no longer
                self._alone[number if count == 0 else total] += 1 if count == 0 else -1
            self._shown[view] = count + 1, total + number

    def _drop(self, number: int) -> None:
        keyframe, views = self._kept.pop(number)
        self._used -= keyframe.nbytes
        del self._alone[number]
        for view in views:
            count, total = self._shown[view]
            if count == 1:
                del self._shown[view]
                continue
            self._shown[view] = count - 1, total - number
            if count == 2:
                self._alone[total - number] += 1


def _views(keys: np.ndarray, centers: np.ndarray, camera: np.ndarray) -> frozenset[int]:
    """What a camera at a place [3] shows of blocks: block, direction and distance as one number each."""
    away = camera - centers
    distance = np.linalg.norm(away, axis=1)
    around = np.floor(np.arctan2(away[:, 1], away[:, 0]) / (2 * np.pi) * _AROUND).astype(int) % _AROUND
    rise = away[:, 2] / np.maximum(distance, 1e-9)
    level = (rise > -0.5).astype(int) + (rise > 0.5)
    octave = np.clip(np.floor(np.log2(np.maximum(distance, 1e-9))).astype(int) + 1, 0, _OCTAVES - 1)
    side = (around * _LEVELS + level) * _OCTAVES + octave
    sides = _AROUND * _LEVELS * _OCTAVES
    return frozenset(key * sides + s for key, s in zip(keys.tolist(), side.tolist(), strict=True))
