"""Where the camera is at a stamp: from TF, odometry or poses. Answers now, "not yet" or "no"; never waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from tf2_msgs.msg import TFMessage

from chorus_core.io.transform_buffer import TransformBuffer, TransformError
from chorus_core.stamps import seconds
from chorus_ros import qos
from chorus_ros.conversions import MessageError, matrix, matrix_from_text, nanoseconds
from chorus_ros.drops import Reject
from chorus_ros.node_config import NodeConfig


class BufferedPoses:
    """Subscriptions to TF, and to odometry or poses, in a plain transform buffer.

    The buffer is the one that bags are read with, whether tf2 is installed or not: one set of rules, which
    :class:`TransformBuffer` names, and news of every arrival. Odometry and poses are of a base;
    :meth:`_base_from_camera` says how the camera sits on it.
    """

    def __init__(
        self, node: Node, config: NodeConfig, group: CallbackGroup, arrived: Callable[[], None], reject: Reject
    ) -> None:
        """
        Args:
            node: makes the subscriptions.
            config: topics, frames and history.
            group: callback group of the subscriptions.
            arrived: called when new transforms may have completed a pose.
            reject: counts messages that cannot be used.
        """
        self._logger = node.get_logger()
        self._frames = config.frames
        self._buffer = TransformBuffer(history=config.sync.pose_history, max_gap=config.sync.pose_gap)
        self._arrived = arrived
        self._reject = reject
        self._map = config.frames.map or ("map" if config.frames.source == "tf" else "")
        self._base = config.frames.base.removeprefix("/")
        self._why = "no pose has arrived"
        self._extrinsic: np.ndarray | None = None
        if config.frames.base_from_camera:
            self._extrinsic = matrix_from_text(config.frames.base_from_camera, "frames.base_from_camera")

        def subscribe(kind: type, topic: str, callback: Callable[[Any], None], profile: QoSProfile) -> None:
            node.create_subscription(kind, topic, callback, callback_group=group, **qos.overridable(profile))

        subscribe(TFMessage, "/tf_static", self._on_tf_static, qos.TF_STATIC)
        subscribe(TFMessage, "/tf", self._on_tf, qos.TF)
        reading = qos.sensor_input(100, config.topics.reliability)
        self._subject = ""
        if config.frames.source == "odometry":
            self._subject = f"odometry on {config.topics.odometry}"
            subscribe(Odometry, config.topics.odometry, self._on_odometry, reading)
        elif config.frames.source == "pose":
            self._subject = f"pose on {config.topics.pose}"
            subscribe(PoseStamped, config.topics.pose, self._on_pose, reading)

    @property
    def map_frame(self) -> str:
        """Frame of the poses; empty while it is not known yet."""
        return self._map

    def subject(self, camera: str) -> str:
        """What a lookup for ``camera`` looks for, as a noun without article."""
        if self._subject:
            return f"{self._subject} that places {camera!r}"
        return f"transform from {camera!r} to {self._map!r}"

    def why_not(self) -> str:
        """What the last lookup without an answer lacked."""
        return self._why

    def reset(self) -> None:
        """Forget the past: time was set back."""
        self._buffer.clear()

    def lookup(self, camera: str, stamp: int) -> np.ndarray | None:
        """``map_from_camera``, float64 [4, 4], of the optical frame ``camera`` at ``stamp`` (nanoseconds), or None."""
        if not self._map:
            return None
        camera, when = camera.removeprefix("/"), seconds(stamp)
        try:
            if self._frames.source == "tf":
                return self._buffer.lookup(self._map, camera, when)
            base = self._base
            map_from_base = self._buffer.lookup(self._map, _POSED + base, when)
            return map_from_base @ self._base_from_camera(base, camera, when)
        except TransformError as error:
            self._why = str(error)
            return None

    def _base_from_camera(self, base: str, camera: str, when: float) -> np.ndarray:
        """How the camera sits on what the poses are of.

        - An unnamed base: by the parameter; without it, odometry is of the root of the camera's static transforms,
          and poses are the camera's own.
        - The camera itself: nothing lies in between.
        - Another frame: by TF (robots publish it on ``/tf_static``), else by the parameter.

        Raises:
            TransformError: another frame, of which neither TF nor the parameter knows.
        """
        if base == "" and self._extrinsic is None and self._frames.source == "odometry":
            base = self._unnamed_base(camera)
        if base == "":
            return np.eye(4) if self._extrinsic is None else self._extrinsic
        if base == camera:
            return np.eye(4)
        try:
            return self._buffer.lookup(base, camera, when)
        except TransformError:
            if self._extrinsic is None:
                raise
            return self._extrinsic

    def _unnamed_base(self, camera: str) -> str:
        """What odometry that does not say is of: robots report the motion of their base, not of a camera."""
        root = self._buffer.static_root(camera)
        if root == camera:
            raise TransformError(
                f"the odometry names no child_frame_id, and no static transform leads to {camera!r}: expected one, or "
                f"frames.base (the camera's own frame, if the poses are the camera's), or frames.base_from_camera"
            )
        self._logger.warning(
            f"the odometry names no child_frame_id: it is taken to be of {root!r}, the root of the static transforms "
            f"of {camera!r}; frames.base says otherwise",
            once=True,
        )
        return root

    def _on_tf(self, message: TFMessage) -> None:
        self._take(message, static=False)

    def _on_tf_static(self, message: TFMessage) -> None:
        self._take(message, static=True)

    def _take(self, message: TFMessage, static: bool) -> None:
        for item in message.transforms:
            self._set(item.header, item.child_frame_id, item.transform, static)
        self._arrived()

    def _on_odometry(self, message: Odometry) -> None:
        if not self._frames.base:
            self._base = message.child_frame_id.removeprefix("/")
        self._take_pose(message.header, message.pose.pose)

    def _on_pose(self, message: PoseStamped) -> None:
        self._take_pose(message.header, message.pose)

    def _take_pose(self, header: Any, pose: Any) -> None:
        self._map = self._map or header.frame_id.removeprefix("/")
        self._set(header, _POSED + self._base, pose, static=False)
        self._arrived()

    def _set(self, header: Any, child: str, transform: Any, static: bool) -> None:
        try:
            when = seconds(nanoseconds(header.stamp))
            self._buffer.set_transform(header.frame_id, child, when, matrix(transform), static)
        except (MessageError, TransformError) as error:
            self._reject("bad_pose", error)


_POSED = "posed:"
"""Prefix of the frames that odometry and poses move: apart from TF's, which may move the same frames too. An unnamed
base is the prefix alone."""
