"""Posed RGB-D frames out of a rosbag2 recording (mcap or sqlite3); no ROS needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from chorus_core import stamps
from chorus_core.frames import FrameError, RgbdFrame
from chorus_core.io.bag_index import BagIndex, MessageKey
from chorus_core.io.bag_looks import look_at_images
from chorus_core.io.bag_messages import messages, nanoseconds, pixels
from chorus_core.io.bag_storage import open_bag
from chorus_core.io.bag_topics import BagOptions, ImageTopics
from chorus_core.io.images import ImageError, color_to_rgb, depth_to_metres
from chorus_core.io.poses import associate
from chorus_core.io.sequence import SequenceBase, SequenceError, make_frame
from chorus_core.io.transform_buffer import TransformError

__all__ = ["BagOptions", "RosbagSequence"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Pair:
    """The two messages that make a frame, and its pose."""

    color: MessageKey
    depth: MessageKey
    world_from_camera: np.ndarray


class RosbagSequence(SequenceBase):
    """A rosbag2 folder, ``.mcap`` or ``.db3`` file as posed RGB-D frames.

    Colour goes with the depth message nearest in header time. The pose is that of the depth message's time, and so is
    the frame's stamp. Depth is taken as registered to colour; the camera frame as an optical frame (REP 103: x right,
    y down, z forward). 16UC1 is millimetres, 32FC1 metres (REP 118). Lens distortion is not removed.

    Opening reads the bag once to index it; iterating reads it once more, in order. Iterate rather than index where all
    frames are wanted: a random access unpacks a chunk of the file each time.
    """

    def __init__(self, path: str | Path, options: BagOptions | None = None, slop: float = 0.02) -> None:
        """
        Args:
            path: folder with ``metadata.yaml``, or a single ``.mcap`` or ``.db3`` file.
            options: topics and frames; what is None is found.
            slop: seconds between the stamps of colour and depth at most.

        Raises:
            SequenceError: no readable bag, a topic is missing, or no frame has colour, depth, calibration and pose.
        """
        self.path = Path(path)
        wanted = options or BagOptions()
        self._bag = open_bag(self.path)
        index = self._scan(wanted)
        self.topics: ImageTopics = index.topics
        if not index.infos:
            raise SequenceError(f"{path}: no usable message on {index.topics.camera_info}: {index.last_error}")
        self.camera_frame = index.camera_frame(wanted)
        try:
            self.world_frame = index.take_poses(wanted)
        except (SequenceError, TransformError) as error:
            raise SequenceError(f"{path}: {error}") from error
        self._warn_of_doubts(index)
        self._intrinsics_at = index.intrinsics_at
        self._pairs = self._pair(index, slop)
        super().__init__(str(path), index.dropped)
        if not self._pairs:
            raise SequenceError(
                f"{path}: no frame with colour ({self.topics.color}), depth ({self.topics.depth}) and pose "
                f"({self.world_frame} from {self.camera_frame}): {self.drops()}; last: {index.last_error}"
            )
        _log.info("%s: %d frames in %s, %s", path, len(self._pairs), self.world_frame, self.drops())

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> RgbdFrame:
        """The frame at an index (negative: from the end).

        Raises:
            IndexError: no such frame.
            SequenceError: its messages are damaged or do not fit together.
        """
        pair = self._pairs[self._position(index)]
        color, depth = (self._find(key) for key in (pair.color, pair.depth))
        return self._frame(pair, color, depth)

    def _frames(self) -> Iterator[RgbdFrame | SequenceError]:
        """One pass over the file; a frame is decoded when both of its messages have come."""
        wanted = {key: (n, role) for n, p in enumerate(self._pairs) for role, key in enumerate((p.color, p.depth))}
        parts: dict[int, dict[int, Any]] = {}
        due = 0
        for topic, log_time, message in messages(self._bag, {self.topics.color, self.topics.depth}):
            if isinstance(message, SequenceError):
                continue  # was not indexed either
            number, role = wanted.pop(MessageKey(topic, log_time, nanoseconds(message)), (None, None))
            if number is None:
                continue
            parts.setdefault(number, {})[role] = message
            while len(parts.get(due, ())) == 2:
                yield self._frame_or_error(due, parts.pop(due))
                due += 1
        for number in range(due, len(self._pairs)):  # a message could be read when the bag was opened, but not now
            yield self._frame_or_error(number, parts.pop(number, {}))

    def _frame_or_error(self, number: int, parts: dict[int, Any]) -> RgbdFrame | SequenceError:
        pair = self._pairs[number]
        if len(parts) < 2:
            return SequenceError(
                f"{self.path}: the messages at {stamps.seconds(pair.depth.stamp):.6f} s cannot be read any more"
            )
        try:
            return self._frame(pair, parts[0], parts[1])
        except SequenceError as error:
            return error

    def _scan(self, wanted: BagOptions) -> BagIndex:
        types = {topic.name: topic.type for topic in self._bag.topics.values()}
        try:
            index = BagIndex(types, wanted, look_at_images(self._bag))
        except SequenceError as error:
            foreign = ", ".join(f"{topic} ({encoding})" for topic, encoding in sorted(self._bag.foreign.items()))
            others = f"; not read, for their serialization: {foreign}" if foreign else ""
            raise SequenceError(f"{self.path}: {error}{others}") from error
        progress = tqdm(desc=f"indexing {self.path.name}", unit=" messages", leave=False, disable=None)
        with progress:
            for topic, log_time, message in messages(self._bag, index.relevant()):
                progress.update()
                if isinstance(message, SequenceError):
                    index.dropped["message not readable"] += 1
                    index.last_error = message
                else:
                    index.add(topic, log_time, message)
        return index

    def _pair(self, index: BagIndex, slop: float) -> list[_Pair]:
        """Frames in order of their stamps; counts those without partner or pose."""
        colors, depths = ([*index.images[topic]] for topic in (self.topics.color, self.topics.depth))
        times = [np.array([key.stamp for key in keys], np.int64) for keys in (colors, depths)]
        pairs = []
        matches = associate(*times, stamps.nanoseconds(slop))
        index.dropped["no depth in time"] += len(colors) - len(matches)
        for color, depth in matches:
            try:
                pose = index.buffer.lookup(self.world_frame, self.camera_frame, stamps.seconds(depths[depth].stamp))
            except TransformError as error:
                index.dropped["no pose"] += 1
                index.last_error = error
                continue
            pairs.append(_Pair(colors[color], depths[depth], pose))
        return pairs

    def _frame(self, pair: _Pair, color_message: Any, depth_message: Any) -> RgbdFrame:
        stamp = pair.depth.stamp
        try:
            color, encoding = pixels(color_message)
            rgb = color_to_rgb(color, encoding or "rgb8")
            depth = depth_to_metres(*pixels(depth_message))
            intrinsics = self._intrinsics_at(stamp, (rgb.shape[1], rgb.shape[0]))
            return make_frame(rgb, depth, intrinsics, pair.world_from_camera, stamp)
        except (ImageError, FrameError) as error:
            raise SequenceError(
                f"frame at {stamps.seconds(stamp):.6f} s of {self.topics.color}, {self.topics.depth}: {error}"
            ) from error

    def _find(self, key: MessageKey) -> Any:
        for _, _, message in messages(self._bag, {key.topic}, key.log_time, key.log_time + 1):
            if not isinstance(message, SequenceError) and nanoseconds(message) == key.stamp:
                return message
        raise SequenceError(f"{self.path}: the message of {key.topic} at {stamps.seconds(key.stamp):.6f} s is gone")

    def _warn_of_doubts(self, index: BagIndex) -> None:
        topics = self.topics
        if topics.doubt:
            _log.warning("%s: %s", self.path, topics.doubt)
        color, depth, info = (
            index.frame_ids.get(topic, "").removeprefix("/")
            for topic in (topics.color, topics.depth, topics.camera_info)
        )
        if color != depth:
            _log.warning(
                "%s is in frame %s, %s in %s: depth is taken as registered to colour all the same",
                *(topics.color, color or "''", topics.depth, depth or "''"),
            )
        if color and info and color != info:
            _log.warning(
                "%s is in frame %s, %s in %s: it is taken as the calibration of colour all the same",
                *(topics.color, color, topics.camera_info, info),
            )
