"""The node: frames in, the pipeline's map, labels and answers out.

Callbacks run in groups, so that none waits for a slower kind: images (pairing only), poses, integration, services and
reports. Encoding runs in the thread of the pipeline.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from chorus_msgs.msg import LabelInfo, MapStatus
from chorus_msgs.srv import Query, SetVocabulary
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from chorus_core.config import ConfigError
from chorus_core.frames import FrameError
from chorus_core.io.bag_topics import is_rectified
from chorus_core.pipeline import LabelledMap, Pipeline, QueryResult
from chorus_core.semantics.vocabulary import shipped_vocabularies
from chorus_ros import conversions, diagnostics, parameters, qos
from chorus_ros.advice import Advice, Input
from chorus_ros.pairing import ApproximatePairing, DropCounter, WaitingRoom
from chorus_ros.poses import make_pose_source
from chorus_ros.spinning import spin_until_stopped
from chorus_ros.stamps import ExactStamps

# Looks for poses that no callback announced, and lets frames go that waited too long.
_POLL_PERIOD = 0.05
_WARNING_PERIOD = 5.0
# Each costs an encoding of text and a product with the whole map.
_MAX_NEGATIVES = 32
_NANO = 1_000_000_000


class PerceptionNode(Node):
    """A thin shell around :class:`chorus_core.pipeline.Pipeline`.

    Raises:
        ConfigError: a parameter is unknown, of the wrong type or out of range.
        ValueError, OSError: the pipeline cannot be made, for example for want of its checkpoint.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("perception_node", **node_arguments)
        self._config, self._settings = parameters.declare(self)
        self._pipeline = Pipeline(self._config)
        self._drops = DropCounter()
        self._warned: dict[str, float] = {}
        self._frames = 0
        self._keyframes = 0
        # Held while a frame is integrated and counted, so that a reset falls between two frames.
        self._integrating = threading.Lock()
        self._stamps = ExactStamps()
        # What was published last; weak, because a map that was replaced is large.
        self._cloud_shown: weakref.ref[LabelledMap] | None = None
        self._objects_shown: weakref.ref[LabelledMap] | None = None

        sync = self._settings.sync
        self._pairing: ApproximatePairing[Any] = ApproximatePairing(
            ("color", "depth", "info"), round(sync.tolerance * _NANO), sync.depth, self._drops
        )
        self._room: WaitingRoom[tuple[Any, Any, CameraInfo]] = WaitingRoom(sync.frames, sync.pose_wait, self._drops)
        self._monitors = {n: diagnostics.StreamMonitor(n) for n in ("color", "depth", "info", "frames")}
        self._drop_monitor = diagnostics.DropMonitor()

        # Timers run on when simulated time stands still: waiting ends, and diagnostics say what is stale.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        integration = MutuallyExclusiveCallbackGroup()
        self._wake = self.create_guard_condition(self._integrate_waiting, integration)
        self.create_timer(_POLL_PERIOD, self._integrate_waiting, integration, clock=self._steady)
        self._create_outputs()
        self._create_services()
        self._create_inputs()
        self._publish_labels()
        self._advice = Advice(self.get_logger(), time.monotonic(), self._settings.publish.stale_after)
        self._pipeline.start()
        self.get_logger().info(f"ready: {len(self._pipeline.vocabulary.labels)} labels, waiting for frames")

    def close(self) -> None:
        """Stop the pipeline's thread. Call it when the executor no longer runs callbacks."""
        self._pipeline.stop()

    # ---- frames in ----

    def _create_inputs(self) -> None:
        group = MutuallyExclusiveCallbackGroup()
        topics = self._settings.topics
        reading = qos.sensor_input(self._settings.sync.depth, topics.reliability)
        self._inputs: dict[str, Input] = {}
        for stream, kind, topic, transport in (
            ("color", Image, topics.color, topics.color_transport),
            ("depth", Image, topics.depth, topics.depth_transport),
            ("info", CameraInfo, topics.info, "raw"),
        ):
            if transport != "raw":
                kind, topic = CompressedImage, f"{topic}/{transport}"
            taking = partial(self._on_message, stream)
            subscription = self.create_subscription(kind, topic, taking, reading, callback_group=group)
            # The name after remapping.
            self._inputs[stream] = Input(subscription.topic_name, kind.__name__, transport)
        self._rectified = is_rectified(self._inputs["color"].topic)
        # Apart from the images, whose bulk would hold the poses up.
        poses = MutuallyExclusiveCallbackGroup()
        self._poses = make_pose_source(self, self._settings, poses, self._wake.trigger, self._reject)

    def _on_message(self, stream: str, message: Any) -> None:
        """Pair one message; nothing is decoded here."""
        self._monitors[stream].tick(time.monotonic())
        try:
            stamp = conversions.nanoseconds(message.header.stamp)
        except conversions.MessageError as error:
            self._reject(f"bad_{stream}", error)
            return
        jumps = self._pairing.jumps
        paired = self._pairing.add(stream, stamp, message)
        if self._pairing.jumps != jumps:
            self.get_logger().warning("stamps went back: time was set back, poses are forgotten; the map stays")
            self._poses.reset()
            self._room.clear("time_jump")
        if paired is not None:
            self._room.push(paired, time.monotonic())
            self._wake.trigger()

    def _integrate_waiting(self) -> None:
        """Integrate every frame whose pose is known by now."""
        while self.context.ok() and (ready := self._room.pop(self._find_pose, time.monotonic())) is not None:
            messages, map_from_camera = ready
            self._advice.geometry(*messages, self._rectified)
            with self._integrating:
                self._integrate(messages, map_from_camera)

    def _integrate(self, messages: tuple[Any, Any, CameraInfo], map_from_camera: np.ndarray) -> None:
        self._frames += 1
        self._monitors["frames"].tick(time.monotonic())
        try:
            frame = conversions.rgbd_frame(*messages, map_from_camera, self._rectified)
            self._stamps.remember(frame.stamp, conversions.nanoseconds(messages[1].header.stamp))
            self._pipeline.integrate(frame)
            self._keyframes += 1
        except conversions.ImageError as error:
            self._reject("bad_image", error)
        except (FrameError, conversions.MessageError) as error:
            self._reject("bad_frame", error)
        except Exception as error:  # out of memory, say: this frame is lost, the node is not
            self._reject("integration_failed", error)

    def _find_pose(self, messages: tuple[Any, Any, CameraInfo]) -> np.ndarray | None:
        header = messages[1].header
        camera = self._settings.frames.camera or header.frame_id.removeprefix("/")
        return self._poses.lookup(camera, conversions.nanoseconds(header.stamp))

    def _reject(self, cause: str, error: Exception) -> None:
        """Count a drop and say why, at most every few seconds for each cause."""
        self._drops.add(cause)
        now = time.monotonic()
        if now - self._warned.get(cause, -_WARNING_PERIOD) >= _WARNING_PERIOD:
            self._warned[cause] = now
            self.get_logger().warning(f"dropped ({cause}): {error}")

    # ---- results out ----

    def _create_outputs(self) -> None:
        publish = self._settings.publish
        latched = partial(self.create_publisher, qos_profile=qos.LATCHED)
        self._cloud_out = latched(PointCloud2, self._name("semantic_cloud"))
        self._query_out = latched(PointCloud2, self._name("query_cloud"))
        self._objects_out = latched(MarkerArray, self._name("objects"))
        self._labels_out = latched(LabelInfo, self._name("labels"))
        self._status_out = latched(MapStatus, self._name("status"))
        self._diagnostics_out = self.create_publisher(DiagnosticArray, "/diagnostics", qos.STREAM)
        group = MutuallyExclusiveCallbackGroup()
        for period, report in (
            (publish.cloud_period, self._report_cloud),
            (publish.objects_period, self._report_objects),
            (publish.status_period, self._report_status),
        ):
            if period > 0:
                self.create_timer(period, partial(self._guarded, report), group, clock=self._steady)

    def _report_cloud(self) -> None:
        if self._cloud_out.get_subscription_count() > 0 and self._map_frame and not self._is_current(self._cloud_shown):
            self._publish_cloud()

    def _publish_cloud(self) -> int:
        """The whole map with its labels; how many points."""
        labelled, _, instances = self._pipeline.semantics.objects()
        labels = labelled.labels.cpu().numpy()  # [N]
        if self._settings.publish.cloud_color == "label":
            palette = np.vstack([labelled.vocabulary.colors, np.full((1, 3), 128, np.uint8)])  # -1: grey
            colors = palette[labels]  # [N, 3]
        else:
            colors = (labelled.gaussians.colors.clamp(0, 1) * 255).round().byte().cpu().numpy()  # [N, 3]
        self._cloud_out.publish(
            conversions.cloud_message(
                self._map_header(labelled.stamp),
                labelled.gaussians.means.cpu().numpy(),
                colors,
                labels,
                instances,
                labelled.confidence.cpu().numpy(),
            )
        )
        self._cloud_shown = weakref.ref(labelled)
        return len(labels)

    def _report_objects(self) -> None:
        wanted = self._objects_out.get_subscription_count() > 0
        if wanted and self._map_frame and not self._is_current(self._objects_shown):
            labelled, objects, _ = self._pipeline.semantics.objects()
            color_of = dict(zip(labelled.vocabulary.labels, labelled.vocabulary.colors.tolist(), strict=True))
            colors = [color_of[item.label] for item in objects]
            header = self._map_header(labelled.stamp)
            self._objects_out.publish(conversions.marker_messages(header, objects, colors))
            self._objects_shown = weakref.ref(labelled)

    def _is_current(self, shown: weakref.ref[LabelledMap] | None) -> bool:
        """Whether the labelled map is the one that was shown: a new one is made whenever anything in it changes."""
        return shown is not None and shown() is self._pipeline.semantics.current

    def _report_status(self) -> None:
        status, drops = self._pipeline.status(), self._drops.counts()
        stamp, now = self.get_clock().now().to_msg(), time.monotonic()
        if self._status_out.get_subscription_count() > 0:
            self._status_out.publish(
                MapStatus(
                    header=Header(stamp=stamp, frame_id=self._map_frame),
                    gaussians=status.gaussians,
                    frames=self._frames,
                    keyframes=self._keyframes,
                    evicted=status.evicted,
                    encodes=status.encodes,
                    encode_failures=status.encode_failures,
                    encoded=status.encoded,
                    last_encode_stamp=self._time_message(status.last_encode_stamp),
                    last_encode_seconds=status.last_encode_seconds,
                    drop_causes=list(drops),
                    drop_counts=list(drops.values()),
                    stages=list(status.stage_ms),
                    stage_p50_ms=[p50 for p50, _ in status.stage_ms.values()],
                    stage_p99_ms=[p99 for _, p99 in status.stage_ms.values()],
                )
            )
        silent = [topic for stream, topic in self._inputs.items() if self._monitors[stream].count == 0]
        self._advice.silence(silent, now, self.count_publishers)
        if drops.get("no_pose") and self._frames == 0:
            self._advice.poses(self._poses.why_not())
        self._advice.failures(status)
        parts = [m.status(now, self._settings.publish.stale_after) for m in self._monitors.values()]
        parts.append(self._drop_monitor.status(drops))
        parts.append(diagnostics.map_status(status))
        self._diagnostics_out.publish(diagnostics.diagnostic_array(stamp, self.get_fully_qualified_name(), parts))

    def _publish_labels(self) -> None:
        self._vocabulary = self._pipeline.vocabulary
        header = Header(stamp=self.get_clock().now().to_msg())
        self._labels = conversions.label_info_message(header, self._vocabulary.labels, self._vocabulary.colors)
        self._labels_out.publish(self._labels)

    def _guarded(self, report: Callable[[], object]) -> None:
        """A report that fails is said so and tried again next time."""
        try:
            report()
        except Exception as error:  # a timer's exception would end the executor, and the node with it
            self._reject("report_failed", error)

    # ---- services ----

    def _create_services(self) -> None:
        group = MutuallyExclusiveCallbackGroup()
        for kind, name, answer in (
            (Query, "query", self._on_query),
            (SetVocabulary, "set_vocabulary", self._on_set_vocabulary),
            (Trigger, "save_map", self._on_save_map),
            (Trigger, "publish_map", self._on_publish_map),
            (Trigger, "reset", self._on_reset),
        ):
            self.create_service(kind, self._name(name), partial(self._answer, answer), callback_group=group)

    def _answer(self, answer: Callable[[Any, Any], None], request: Any, response: Any) -> Any:
        """Run a service; what it raises becomes an answer without success."""
        response.success = True
        try:
            answer(request, response)
        except ValueError as error:  # the request's fault
            response.success, response.message = False, str(error)
        except Exception as error:  # the node's fault; it must live on
            response.success, response.message = False, f"{type(error).__name__}: {error}"
            self.get_logger().error(f"service failed: {response.message}")
        return response

    def _on_query(self, request: Query.Request, response: Query.Response) -> None:
        if len(request.negatives) > _MAX_NEGATIVES:
            raise ValueError(f"{len(request.negatives)} negatives: expected at most {_MAX_NEGATIVES}")
        result = self._pipeline.query(
            request.text, tuple(request.negatives), float(request.threshold), int(request.max_objects)
        )
        header = self._map_header(result.map_stamp)
        response.objects = [conversions.object_message(header, i, item) for i, item in enumerate(result.objects)]
        response.points = self._query_cloud(header, result)
        response.map_stamp = header.stamp
        response.seconds = result.seconds
        if self._query_out.get_subscription_count() > 0:
            self._query_out.publish(response.points)

    def _query_cloud(self, header: Header, result: QueryResult) -> PointCloud2:
        return conversions.cloud_message(
            header,
            result.points,
            result.colors,
            instances=conversions.object_instances(len(result.points), result.objects),
            confidence=result.scores,
        )

    def _on_set_vocabulary(self, request: SetVocabulary.Request, response: SetVocabulary.Response) -> None:
        try:
            self._pipeline.set_vocabulary(_requested_vocabulary(request.labels, request.name))
        finally:  # refused or not, the answer says what is in use
            if self._pipeline.vocabulary is not self._vocabulary:
                self._publish_labels()
            response.vocabulary = self._labels
        # A cloud with the ids of the old labels must not stay: with cloud_period 0 nothing else replaces it.
        if self._cloud_shown is not None and self._cloud_out.get_subscription_count() > 0:
            self._guarded(self._publish_cloud)

    def _on_save_map(self, _: Trigger.Request, response: Trigger.Response) -> None:
        folder = Path(self._settings.publish.map_folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"map_{datetime.now():%Y%m%d_%H%M%S_%f}.ply"  # to the microsecond: no two are alike
        self._pipeline.save(path)
        response.message = str(path)

    def _on_publish_map(self, _: Trigger.Request, response: Trigger.Response) -> None:
        response.message = f"{self._publish_cloud()} points"

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> None:
        with self._integrating:
            self._room.clear("reset")
            self._pipeline.reset()
            self._drops.clear()
            self._frames = self._keyframes = 0
        response.message = "the map is empty"

    # ---- names and stamps ----

    def _name(self, name: str) -> str:
        prefix = self._settings.publish.namespace.strip("/")
        return f"{prefix}/{name}" if prefix else name

    @property
    def _map_frame(self) -> str:
        return self._poses.map_frame

    def _map_header(self, stamp: float) -> Header:
        return Header(stamp=self._time_message(stamp), frame_id=self._map_frame)

    def _time_message(self, seconds: float) -> Time:
        """The stamp of the frame that came in with it, to the nanosecond."""
        exact = self._stamps.nanoseconds(seconds)
        return conversions.time_message(seconds) if exact is None else conversions.exact_time_message(exact)


def _requested_vocabulary(labels: Sequence[str], name: str) -> list[str] | str:
    """The labels, or the name of a shipped vocabulary: a name from outside is never taken for a path."""
    if labels and name:
        raise ValueError(f"both labels and name {name!r} are given: expected one of them")
    if labels:
        return list(labels)
    if name not in shipped_vocabularies():
        raise ValueError(f"vocabulary {name!r}: expected labels, or one of {', '.join(shipped_vocabularies())}")
    return name


def main(args: Sequence[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)  # see spin_until_stopped
    node = None
    try:
        node = PerceptionNode()
        executor = MultiThreadedExecutor(num_threads=4)
        executor.add_node(node)
        spin_until_stopped(executor)
    except KeyboardInterrupt:  # while starting
        pass
    except ConfigError as error:
        sys.exit(f"perception_node: {error}")
    except (ValueError, OSError) as error:
        if node is not None:
            raise
        sys.exit(f"perception_node could not start: {' '.join(str(error).split())}")  # one line, whoever raised it
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
