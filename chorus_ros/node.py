"""The node: frames in, the pipeline's map, labels and answers out.

Callbacks run in groups, so that none waits for a slower kind: images (pairing only), poses, integration, queries, the
vocabulary, other services, and reports. Encoding runs in the thread of the pipeline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Header

from chorus_core.config import Config
from chorus_core.pipeline import Pipeline
from chorus_ros import conversions, parameters
from chorus_ros.advice import Advice
from chorus_ros.camera_input import CameraInput
from chorus_ros.drops import DropCounter, DropLog
from chorus_ros.frame_integrator import FrameIntegrator
from chorus_ros.live_parameters import LiveParameters, set_period
from chorus_ros.map_publisher import MapPublisher
from chorus_ros.map_services import MapServices
from chorus_ros.node_config import NodeConfig
from chorus_ros.status_report import StatusReport

THREADS = 8
"""Of the executor: one for each callback group, and one for parameters."""

# Looks for poses that no callback announced, and lets frames go that waited too long.
_POLL_PERIOD = 0.05


class PerceptionNode(Node):
    """A thin shell around :class:`chorus_core.pipeline.Pipeline`.

    Raises:
        ConfigError: a parameter is unknown, of the wrong type or out of range.
        ValueError, OSError: the pipeline cannot be made, for example for want of its checkpoint.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("perception_node", **node_arguments)
        config, settings = parameters.declare(self)
        self._pipeline = Pipeline(config)
        if settings.publish.load_map:
            self._pipeline.load(settings.publish.load_map)
            self.get_logger().info(f"going on with {settings.publish.load_map}: {len(self._pipeline.map)} Gaussians")
        self._drops = DropCounter()
        self._reject = DropLog(self._drops, self.get_logger()).reject
        self._advice = Advice(self.get_logger(), time.monotonic(), settings.publish.stale_after)
        self._integrator = FrameIntegrator(self._pipeline, self._reject)
        # Timers run on when simulated time stands still: waiting ends, and diagnostics say what is stale.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        integration = MutuallyExclusiveCallbackGroup()
        wake = self.create_guard_condition(self._integrate_waiting, integration)
        self._camera = CameraInput(self, settings, self._drops, self._reject, wake.trigger)
        self.create_timer(_POLL_PERIOD, self._integrate_waiting, integration, clock=steady)
        self._publisher = MapPublisher(self, settings.publish, self._pipeline, self._map_header)
        self._stopping = threading.Event()
        MapServices(
            self, settings.publish, self._pipeline, self._publisher, self._map_header, self._reset, self._stopping
        )
        self._status = StatusReport(
            self, settings.publish, self._pipeline, self._camera, self._integrator, self._drops, self._advice
        )
        reports = MutuallyExclusiveCallbackGroup()
        self._cloud_timer, self._objects_timer, self._status_timer = (
            self.create_timer(1.0, partial(self._guarded, report), reports, clock=steady)
            for report in (self._publisher.report_cloud, self._publisher.report_objects, self._status.publish)
        )
        self._apply(config, settings)
        LiveParameters(self, config, settings, self._apply)
        parameters.warn_unused(self)
        self._pipeline.start()
        self.get_logger().info(f"ready: {len(self._pipeline.vocabulary.labels)} labels, waiting for frames")

    def stop(self) -> None:
        """Give up what takes long: the node is to end. Callable from any thread."""
        self._stopping.set()

    def close(self) -> None:
        """Stop the pipeline's thread. Call it when the executor no longer runs callbacks."""
        self._pipeline.stop()

    def _integrate_waiting(self) -> None:
        """Integrate every frame whose pose is known by now."""
        for frame in self._camera.frames():
            self._advice.geometry(frame.color, frame.depth, frame.info, frame.rectified)
            self._integrator.integrate(frame)
            if self._stopping.is_set() or not self.context.ok():
                return

    def _apply(self, config: Config, settings: NodeConfig) -> None:
        """Go on with what may be set while the node runs."""
        self._pipeline.reconfigure(config)
        self._publisher.color_by(settings.publish.cloud_color)
        set_period(self._cloud_timer, settings.publish.cloud_period)
        set_period(self._objects_timer, settings.publish.objects_period)
        set_period(self._status_timer, settings.publish.status_period)

    def _reset(self) -> None:
        with self._integrator.between_frames():
            self._camera.clear("reset")
            self._pipeline.reset()
            self._drops.clear()
            self._integrator.restart()

    def _map_header(self, stamp: int) -> Header:
        return Header(stamp=conversions.time_message(stamp), frame_id=self._camera.poses.map_frame)

    def _guarded(self, report: Callable[[], object]) -> None:
        """A report that fails is said so and tried again next time."""
        try:
            report()
        except Exception as error:  # a timer's exception would end the executor, and the node with it
            self._reject("report_failed", error)
