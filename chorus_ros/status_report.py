"""How the node is doing: its status topic, diagnostics, and what the log says of trouble."""

from __future__ import annotations

import time
from typing import Any

from chorus_msgs.msg import MapStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import Header

from chorus_core.pipeline import Pipeline, PipelineStatus
from chorus_ros import conversions, diagnostics, qos
from chorus_ros.advice import Advice
from chorus_ros.camera_input import CameraInput
from chorus_ros.drops import DropCounter
from chorus_ros.frame_integrator import FrameIntegrator
from chorus_ros.node_config import PublishConfig


class StatusReport:
    """Publishes status and diagnostics.

    Args:
        node: makes the publishers.
        config: names and patience.
        pipeline: what is reported on, with the two below.
        camera: frames that come in.
        integrator: frames that go into the map.
        drops: what was dropped on the way.
        advice: says in the log what the user should know.
    """

    def __init__(
        self,
        node: Node,
        config: PublishConfig,
        pipeline: Pipeline,
        camera: CameraInput,
        integrator: FrameIntegrator,
        drops: DropCounter,
        advice: Advice,
    ) -> None:
        self._node = node
        self._patience = config.stale_after
        self._pipeline = pipeline
        self._camera = camera
        self._integrator = integrator
        self._drops = drops
        self._advice = advice
        self._drop_monitor = diagnostics.DropMonitor()
        self._status_out = node.create_publisher(MapStatus, config.topic("status"), **qos.overridable(qos.LATCHED))
        self._diagnostics_out = node.create_publisher(DiagnosticArray, "/diagnostics", **qos.overridable(qos.STREAM))

    def publish(self) -> None:
        status, drops = self._pipeline.status(), self._drops.counts()
        stamp, now = self._node.get_clock().now().to_msg(), time.monotonic()
        if self._status_out.get_subscription_count() > 0:
            self._status_out.publish(self._status_message(stamp, status, drops))
        health = self._health(now)
        self._advice.silence(self._camera.silent(), now, self._node.count_publishers)
        self._advice.health(health, now)
        self._advice.failures(status)
        parts = self._camera.statuses(now, self._patience)
        parts += [
            self._integrator.monitor.status(now, self._patience),
            *health,
            self._drop_monitor.status(drops),
            diagnostics.map_status(status),
        ]
        name = self._node.get_fully_qualified_name()
        self._diagnostics_out.publish(diagnostics.diagnostic_array(stamp, name, parts))

    def _health(self, now: float) -> list[DiagnosticStatus]:
        """What the inputs lack, taken together."""
        return [
            self._camera.pairing.status(now, self._patience),
            self._camera.pose_monitor.status(now),
            self._integrator.depth_monitor.status(),
        ]

    def _status_message(self, stamp: Any, status: PipelineStatus, drops: dict[str, int]) -> MapStatus:
        return MapStatus(
            header=Header(stamp=stamp, frame_id=self._camera.poses.map_frame),
            gaussians=status.gaussians,
            frames=self._integrator.frames,
            integrated=self._integrator.integrated,
            keyframes=status.keyframes,
            map_id=status.map_id,
            objects=status.objects,
            evicted=status.evicted,
            encodes=status.encodes,
            encode_failures=status.encode_failures,
            encoded=status.encoded,
            last_encode_stamp=conversions.time_message(status.last_encode_stamp),
            last_encode_seconds=status.last_encode_seconds,
            drop_causes=list(drops),
            drop_counts=list(drops.values()),
            stages=list(status.stage_ms),
            stage_p50_ms=[p50 for p50, _ in status.stage_ms.values()],
            stage_p99_ms=[p99 for _, p99 in status.stage_ms.values()],
        )
