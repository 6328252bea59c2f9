"""One camera: its subscriptions, colour and depth paired by stamp, and frames that wait for their pose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from chorus_core.io.bag_topics import is_rectified
from chorus_ros import conversions, qos
from chorus_ros.advice import Input
from chorus_ros.calibration_history import CalibrationHistory
from chorus_ros.diagnostics import StreamMonitor
from chorus_ros.drops import DropCounter, Reject
from chorus_ros.input_health import PairingMonitor, PoseMonitor
from chorus_ros.node_config import NodeConfig
from chorus_ros.pairing import ApproximatePairing
from chorus_ros.poses import BufferedPoses
from chorus_ros.waiting_room import WaitingRoom

_NANO = 1_000_000_000


@dataclass(frozen=True)
class CameraFrame:
    """Messages of one frame, not decoded yet, and where the camera was.

    Attributes:
        color: the image, raw or compressed.
        depth: the image registered to colour; the frame's stamp and frame_id are those of its header.
        info: the calibration that holds at the frame's stamp.
        map_from_camera: pose of the optical frame, float64 [4, 4].
        rectified: whether P of the calibration holds rather than K.
    """

    color: Image | CompressedImage
    depth: Image | CompressedImage
    info: CameraInfo
    map_from_camera: np.ndarray
    rectified: bool


class CameraInput:
    """Subscriptions to a camera and to its poses; frames come out whole.

    Args:
        node: makes the subscriptions.
        config: topics, frames and queues.
        drops: where what is dropped is counted.
        reject: counts what cannot be used and says why.
        wake: called when a frame may have become complete.

    Raises:
        MessageError: ``frames.base_from_camera`` is not a transform.
    """

    def __init__(
        self, node: Node, config: NodeConfig, drops: DropCounter, reject: Reject, wake: Callable[[], object]
    ) -> None:
        self._logger = node.get_logger()
        self._reject = reject
        self._wake = wake
        self._camera = config.frames.camera
        sync = config.sync
        self._pairing: ApproximatePairing[Any] = ApproximatePairing(
            ("color", "depth"), round(sync.tolerance * _NANO), sync.depth, drops
        )
        self._calibrations = CalibrationHistory(round(sync.tolerance * _NANO), sync.pose_wait / 2)
        self._room: WaitingRoom[tuple[Any, Any], tuple[CameraInfo, np.ndarray]] = WaitingRoom(
            sync.pose_wait, sync.wait_mib << 20, sync.frames, drops, self._expired
        )
        self.monitors = {name: StreamMonitor(name) for name in ("color", "depth", "info")}
        self.pairing = PairingMonitor(sync.tolerance)
        self.pose_monitor = PoseMonitor()
        self.inputs = self._subscribe(node, config)
        self._rectified = is_rectified(self.inputs["color"].topic)
        # Apart from the images, whose bulk would hold the poses up.
        self.poses = BufferedPoses(node, config, MutuallyExclusiveCallbackGroup(), self._poses_arrived, reject)

    def _subscribe(self, node: Node, config: NodeConfig) -> dict[str, Input]:
        """What is subscribed to, by stream."""
        group = MutuallyExclusiveCallbackGroup()
        topics = config.topics
        reading = qos.sensor_input(config.sync.depth, topics.reliability)
        inputs = {}
        for stream, kind, topic, transport, taking in (
            ("color", Image, topics.color, topics.color_transport, partial(self._on_image, "color")),
            ("depth", Image, topics.depth, topics.depth_transport, partial(self._on_image, "depth")),
            ("info", CameraInfo, topics.info, "raw", self._on_info),
        ):
            if transport != "raw":
                kind, topic = CompressedImage, f"{topic}/{transport}"
            subscription = node.create_subscription(
                kind, topic, taking, callback_group=group, **qos.overridable(reading)
            )
            # The name after remapping.
            inputs[stream] = Input(subscription.topic_name, kind.__name__, transport)
        return inputs

    # ---- frames out ----

    def frames(self) -> Iterator[CameraFrame]:
        """The frames whose pose and calibration are known by now, oldest first."""
        while (ready := self._room.pop(self._complete, time.monotonic())) is not None:
            (color, depth), (info, map_from_camera) = ready
            self.pose_monitor.found(time.monotonic())
            yield CameraFrame(color, depth, info, map_from_camera, self._rectified)

    def clear(self, cause: str) -> None:
        """Let go of the frames that wait, and count them under ``cause``."""
        self._room.clear(cause)

    def statuses(self, now: float, patience: float) -> list[DiagnosticStatus]:
        """Rates and staleness of the inputs; one camera info is enough, however long ago it came."""
        statuses = [monitor.status(now, patience) for monitor in self.monitors.values()]
        info = statuses[-1]
        if info.level == DiagnosticStatus.STALE and self._calibrations.known:
            info.level, info.message = DiagnosticStatus.OK, f"{info.message}, the last one holds"
        return statuses

    def silent(self) -> list[Input]:
        """Inputs on which nothing has arrived yet."""
        return [topic for stream, topic in self.inputs.items() if self.monitors[stream].count == 0]

    # ---- messages in ----

    def _on_image(self, stream: str, message: Any) -> None:
        """Pair one image; nothing is decoded here."""
        now = time.monotonic()
        self.monitors[stream].tick(now)
        try:
            stamp = conversions.nanoseconds(message.header.stamp)
        except conversions.MessageError as error:
            self._reject(f"bad_{stream}", error)
            return
        jumps = self._pairing.jumps
        paired = self._pairing.add(stream, stamp, message)
        self.pairing.arrived(now, paired is not None, self._pairing.skew)
        if self._pairing.jumps != jumps:
            self._time_set_back()
        if paired is not None:
            self._room.push(paired, sum(len(image.data) for image in paired), now)
            self._wake()

    def _on_info(self, message: CameraInfo) -> None:
        self.monitors["info"].tick(time.monotonic())
        try:
            self._calibrations.add(conversions.nanoseconds(message.header.stamp), message)
        except conversions.MessageError as error:
            self._reject("bad_info", error)
            return
        self._wake()

    def _time_set_back(self) -> None:
        self._logger.warning("stamps went back: time was set back, poses are forgotten; the map stays")
        self.poses.reset()
        self._calibrations.restart()
        self._room.clear("time_jump")

    def _poses_arrived(self) -> None:
        if len(self._room):
            self._wake()

    def _complete(self, images: tuple[Any, Any], waited: float) -> tuple[CameraInfo, np.ndarray] | None:
        header = images[1].header
        stamp = conversions.nanoseconds(header.stamp)
        info = self._calibrations.at(stamp, waited)
        if info is None:
            return None
        map_from_camera = self.poses.lookup(self._camera_of(header), stamp)
        return None if map_from_camera is None else (info, map_from_camera)

    def _expired(self, images: tuple[Any, Any], arrived: float) -> str:
        if not self._calibrations.known:
            return "no_info"
        header = images[1].header
        self.pose_monitor.missed(arrived, self.poses.subject(self._camera_of(header)), self.poses.why_not())
        return "no_pose"

    def _camera_of(self, header: Any) -> str:
        return self._camera or header.frame_id.removeprefix("/")
