"""What the node publishes of its map: labels, clouds, objects. Made only for who subscribes."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import numpy as np
from chorus_msgs.msg import LabelInfo
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from chorus_core.pipeline import LabelledMap, Pipeline, QueryResult
from chorus_ros import conversions, qos
from chorus_ros.node_config import PublishConfig


class MapPublisher:
    """Latched topics of the map.

    Args:
        node: makes the publishers.
        config: names and colours.
        pipeline: whose map is shown.
        header: of messages about the map as it was at a stamp in nanoseconds.
    """

    def __init__(
        self, node: Node, config: PublishConfig, pipeline: Pipeline, header: Callable[[float], Header]
    ) -> None:
        self._color = config.cloud_color
        self._pipeline = pipeline
        self._header = header
        self._clock = node.get_clock()

        def latched(kind: type, name: str) -> Publisher:
            return node.create_publisher(kind, config.topic(name), **qos.overridable(qos.LATCHED))

        self._cloud_out = latched(PointCloud2, "semantic_cloud")
        self._query_out = latched(PointCloud2, "query_cloud")
        self._objects_out = latched(MarkerArray, "objects")
        self._labels_out = latched(LabelInfo, "labels")
        # What was published last; weak, because a map that was replaced is large.
        self._cloud_shown: weakref.ref[LabelledMap] | None = None
        self._objects_shown: weakref.ref[LabelledMap] | None = None
        self.publish_labels()

    # ---- labels ----

    @property
    def labels(self) -> LabelInfo:
        """The labels in use, as they were published."""
        return self._labels

    def publish_labels(self) -> None:
        """Say which labels are in use, if that is news."""
        vocabulary = self._pipeline.vocabulary
        header = Header(stamp=self._clock.now().to_msg())
        self._vocabulary = vocabulary
        self._labels = conversions.label_info_message(header, vocabulary.labels, vocabulary.colors)
        self._labels_out.publish(self._labels)

    def vocabulary_changed(self) -> bool:
        """Whether the labels in use are not those that were published."""
        return self._pipeline.vocabulary is not self._vocabulary

    # ---- the whole map ----

    def report_cloud(self) -> None:
        """Publish the cloud, if somebody listens and it is not the one shown last."""
        if self._cloud_out.get_subscription_count() > 0 and self._is_news(self._cloud_shown):
            self.publish_cloud()

    def color_by(self, color: str) -> None:
        """Show ``label`` or ``rgb`` in the cloud from its next publication on, which a change makes due."""
        if color != self._color:
            self._color, self._cloud_shown = color, None

    def replace_cloud(self) -> None:
        """Publish the cloud again if one is shown: its ids are of labels that are no longer in use."""
        if self._cloud_shown is not None and self._cloud_out.get_subscription_count() > 0:
            self.publish_cloud()

    def publish_cloud(self) -> int:
        """The whole map with its labels; how many points."""
        labelled, _, instances = self._pipeline.semantics.objects()
        labels = labelled.labels.cpu().numpy()  # [N]
        if self._color == "label":
            palette = np.vstack([labelled.vocabulary.colors, np.full((1, 3), 128, np.uint8)])  # -1: grey
            colors = palette[labels]  # [N, 3]
        else:
            colors = (labelled.gaussians.colors.clamp(0, 1) * 255).round().byte().cpu().numpy()  # [N, 3]
        self._cloud_out.publish(
            conversions.cloud_message(
                self._header(labelled.stamp),
                labelled.gaussians.means.cpu().numpy(),
                colors,
                labels,
                instances,
                labelled.confidence.cpu().numpy(),
            )
        )
        self._cloud_shown = weakref.ref(labelled)
        return len(labels)

    def report_objects(self) -> None:
        """Publish the objects, if somebody listens and they are not those shown last."""
        if self._objects_out.get_subscription_count() > 0 and self._is_news(self._objects_shown):
            labelled, objects, _ = self._pipeline.semantics.objects()
            color_of = dict(zip(labelled.vocabulary.labels, labelled.vocabulary.colors.tolist(), strict=True))
            colors = [color_of[item.label] for item in objects]
            self._objects_out.publish(conversions.marker_messages(self._header(labelled.stamp), objects, colors))
            self._objects_shown = weakref.ref(labelled)

    def _is_news(self, shown: weakref.ref[LabelledMap] | None) -> bool:
        """Whether there is a map in a frame that was not shown: a new one is made whenever anything in it changes."""
        current = self._pipeline.semantics.current
        return bool(self._header(current.stamp).frame_id) and (shown is None or shown() is not current)

    # ---- answers ----

    def answer_cloud(self, result: QueryResult) -> PointCloud2:
        """The points of an answer; published, too, if somebody listens."""
        cloud = conversions.cloud_message(
            self._header(result.map_stamp),
            result.points,
            result.colors,
            instances=conversions.object_instances(len(result.points), result.objects),
            confidence=result.scores,
        )
        if self._query_out.get_subscription_count() > 0:
            self._query_out.publish(cloud)
        return cloud
