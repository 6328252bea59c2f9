"""What the node publishes of its map: labels, clouds, objects. Made only for who subscribes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from chorus_msgs.msg import LabelInfo
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from chorus_core.pipeline import Pipeline, QueryResult
from chorus_core.semantics.object_tracker import NO_OBJECT
from chorus_core.semantics.semantic_map import Version
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
        self._cloud_shown: Version | None = None
        self._objects_shown: Version | None = None
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
        with self._pipeline.semantics.rows() as rows:
            mirror, slots = rows.mirror, rows.mirror.handed_out
            labels = mirror.labels[slots]  # [N]
            if self._color == "label":
                palette = np.vstack([rows.vocabulary.colors, np.full((1, 3), 128, np.uint8)])  # -1: grey
                colors = palette[labels]  # [N, 3]
            else:
                colors = mirror.colors[slots]  # [N, 3]
            numbers = rows.tracker.object_of(slots, mirror.births[slots])
            cloud = conversions.cloud_message(
                self._header(mirror.stamp),
                mirror.means[slots],
                colors,
                labels,
                np.where(numbers == NO_OBJECT, conversions.NO_INSTANCE, numbers),
                mirror.confidence[slots],
            )
        self._cloud_out.publish(cloud)
        self._cloud_shown = rows.version
        return len(slots)

    def report_objects(self) -> None:
        """Publish the objects, if somebody listens and they are not those shown last."""
        if self._objects_out.get_subscription_count() > 0 and self._is_news(self._objects_shown):
            with self._pipeline.semantics.rows() as rows:
                header, objects = self._header(rows.mirror.stamp), rows.objects
            color_of = dict(zip(rows.vocabulary.labels, rows.vocabulary.colors.tolist(), strict=True))
            colors = [color_of[item.label] for item in objects]
            self._objects_out.publish(conversions.marker_messages(header, objects, colors))
            self._objects_shown = rows.version

    def _is_news(self, shown: Version | None) -> bool:
        """Whether there is a map in a frame that was not shown as it is now."""
        return bool(self._header(0).frame_id) and shown != self._pipeline.semantics.version

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
