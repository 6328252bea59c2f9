"""One pass over a bag: which image messages there are, when, with which calibration and poses."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chorus_core.frames import CameraIntrinsics, FrameError
from chorus_core.io.bag_messages import PoseSample, nanoseconds, pose_sample
from chorus_core.io.bag_poses import choose_pose_source
from chorus_core.io.bag_topics import TF, BagOptions, Look, choose_image_topics, is_rectified, pose_topics
from chorus_core.io.camera_info import intrinsics_from_info
from chorus_core.io.poses import matrix_from_pose
from chorus_core.io.sequence import SequenceError
from chorus_core.io.transform_buffer import TransformBuffer, TransformError
from chorus_core.stamps import seconds

_log = logging.getLogger(__name__)

_STATIC_TF = "/tf_static"
# Seconds without a pose that are bridged. Localisation may correct `map` as rarely as once a second; a robot that was
# lost for longer may have turned a corner.
_MAX_POSE_GAP = 2.0


@dataclass(frozen=True)
class MessageKey:
    """One image message: topic, time of recording and time in its header, in nanoseconds."""

    topic: str
    log_time: int
    stamp: int


class BagIndex:
    """What one pass over a bag finds: image messages, calibration and transforms."""

    def __init__(
        self, types: Mapping[str, str], wanted: BagOptions, looks: Mapping[str, Look], max_gap: float = _MAX_POSE_GAP
    ) -> None:
        """
        Args:
            types: message type by topic, of topics that have messages.
            wanted: topics and frames that were chosen already.
            looks: what the messages of image and calibration topics show.
            max_gap: seconds between two poses at most that are interpolated between.

        Raises:
            SequenceError: a topic is missing, or nothing tells which is meant.
        """
        self.topics = choose_image_topics(types, wanted, looks)
        self.pose_types = pose_topics(types, wanted)
        self.buffer = TransformBuffer(history=math.inf, max_gap=max_gap)
        self.poses: dict[str, list[PoseSample]] = {t: [] for t, kind in self.pose_types.items() if kind != TF}
        # keys in the order of recording
        self.images: dict[str, dict[MessageKey, None]] = {self.topics.color: {}, self.topics.depth: {}}
        self.info_stamps: list[int] = []
        self.infos: list[Any] = []
        self.frame_ids: dict[str, str] = {}
        self.dropped = Counter[str]()
        self.last_error: Exception | None = None

    def relevant(self) -> set[str]:
        """Topics to be read."""
        return {self.topics.color, self.topics.depth, self.topics.camera_info, *self.pose_types}

    def add(self, topic: str, log_time: int, message: Any) -> None:
        """Take in one message."""
        if topic in self.images:
            key = MessageKey(topic, log_time, nanoseconds(message))
            self.dropped["message recorded twice"] += key in self.images[topic]
            self.images[topic][key] = None
            self.frame_ids.setdefault(topic, message.header.frame_id)
        elif topic == self.topics.camera_info:
            self._add_info(message)
        elif self.pose_types[topic] == TF:
            for transform in message.transforms:
                self._add_transform(transform, static=topic.endswith(_STATIC_TF))
        else:
            self.poses[topic].append(pose_sample(message, self.pose_types[topic]))

    def _add_info(self, message: Any) -> None:
        self.frame_ids.setdefault(self.topics.camera_info, message.header.frame_id)
        try:
            intrinsics_from_info(message, rectified=is_rectified(self.topics.color))
        except FrameError as error:
            self.dropped["camera_info not usable"] += 1
            self.last_error = error
            return
        if not self.infos and np.any(message.d) and not is_rectified(self.topics.color):
            _log.warning("%s has lens distortion, which is not removed: record rectified images", self.topics.color)
        place = bisect_right(self.info_stamps, nanoseconds(message))
        self.info_stamps.insert(place, nanoseconds(message))
        self.infos.insert(place, message)

    def _add_transform(self, transform: Any, static: bool) -> None:
        t, q = transform.transform.translation, transform.transform.rotation
        matrix = matrix_from_pose((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
        try:
            self.buffer.set_transform(
                transform.header.frame_id, transform.child_frame_id, seconds(nanoseconds(transform)), matrix, static
            )
        except TransformError as error:
            self.dropped["transform not usable"] += 1
            self.last_error = error

    def camera_frame(self, wanted: BagOptions) -> str:
        """The frame whose pose is looked up."""
        candidates = (
            wanted.camera_frame,
            *(self.frame_ids.get(t) for t in (self.topics.color, self.topics.camera_info)),
        )
        frame = next((f for f in candidates if f), None)
        if frame is None:
            raise SequenceError(f"{self.topics.color}: empty frame_id: expected one, or camera_frame to be given")
        return frame

    def take_poses(self, wanted: BagOptions) -> str:
        """Bring the poses of the source that knows the camera best into the transforms.

        Returns:
            the world frame.

        Raises:
            SequenceError: nothing says where the camera is.
            TransformError: the frames form a loop.
        """
        stamps = [seconds(key.stamp) for key in self.images[self.topics.depth]]
        source = choose_pose_source(self.buffer, self.poses, self.pose_types, self.camera_frame(wanted), stamps, wanted)
        self.buffer = source.buffer
        self.dropped["pose not usable"] += source.rejected
        self.last_error = source.last_error or self.last_error
        return source.world_frame

    def intrinsics_at(self, stamp: int, image_size: tuple[int, int]) -> CameraIntrinsics:
        """The calibration in force for colour images of that size: the last one before a time, or the first.

        Raises:
            FrameError: images of another size than region of interest and binning give.
        """
        message = self.infos[max(bisect_right(self.info_stamps, stamp) - 1, 0)]
        return intrinsics_from_info(message, is_rectified(self.topics.color), image_size)
