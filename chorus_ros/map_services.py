"""The services of the node. Each runs in a callback group that none slower than it shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from chorus_msgs.srv import Query, SetVocabulary
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from chorus_core.pipeline import Pipeline
from chorus_core.semantics.vocabulary import shipped_vocabularies
from chorus_ros import conversions, qos
from chorus_ros.map_publisher import MapPublisher
from chorus_ros.node_config import PublishConfig

# Each costs an encoding of text and a product with the whole map.
_MAX_NEGATIVES = 32


class MapServices:
    """Answers about the map, and what may be done with it.

    Args:
        node: makes the services.
        config: names and folders.
        pipeline: what is asked.
        publisher: shows labels and clouds after a change.
        header: of messages about the map as it was at a stamp in nanoseconds.
        reset: empties the map and what waits for it.
        stopping: set when the node is to end; what takes long is given up then.
    """

    def __init__(
        self,
        node: Node,
        config: PublishConfig,
        pipeline: Pipeline,
        publisher: MapPublisher,
        header: Callable[[float], Header],
        reset: Callable[[], None],
        stopping: threading.Event,
    ) -> None:
        self._logger = node.get_logger()
        self._config = config
        self._pipeline = pipeline
        self._publisher = publisher
        self._header = header
        self._reset = reset
        self._stopping = stopping
        queries, vocabulary, keeping = (MutuallyExclusiveCallbackGroup() for _ in range(3))
        for kind, name, answer, group in (
            (Query, "query", self._on_query, queries),
            (SetVocabulary, "set_vocabulary", self._on_set_vocabulary, vocabulary),
            (Trigger, "save_map", self._on_save_map, keeping),
            (Trigger, "publish_map", self._on_publish_map, keeping),
            (Trigger, "reset", self._on_reset, keeping),
        ):
            node.create_service(
                kind,
                config.topic(name),
                partial(self._answer, answer),
                qos_profile=qos.SERVICES,
                callback_group=group,
            )

    def _answer(self, answer: Callable[[Any, Any], None], request: Any, response: Any) -> Any:
        """Run a service; what it raises becomes an answer without success."""
        response.success = True
        try:
            answer(request, response)
        except ValueError as error:  # the request's fault
            response.success, response.message = False, str(error)
        except Exception as error:  # the node's fault; it must live on
            response.success, response.message = False, f"{type(error).__name__}: {error}"
            self._logger.error(f"service failed: {response.message}")
        return response

    def _on_query(self, request: Query.Request, response: Query.Response) -> None:
        if len(request.negatives) > _MAX_NEGATIVES:
            raise ValueError(f"{len(request.negatives)} negatives: expected at most {_MAX_NEGATIVES}")
        result = self._pipeline.query(
            request.text, tuple(request.negatives), float(request.threshold), int(request.max_objects)
        )
        header = self._header(result.map_stamp)
        response.text = result.text
        response.objects = [conversions.object_message(header, item) for item in result.objects]
        response.points = self._publisher.answer_cloud(result)
        response.map_id = result.map_id
        response.map_stamp = header.stamp
        response.seconds = result.seconds

    def _on_set_vocabulary(self, request: SetVocabulary.Request, response: SetVocabulary.Response) -> None:
        try:
            self._pipeline.set_vocabulary(_requested_vocabulary(request.labels, request.name), self._stopping)
        finally:  # refused or not, the answer says what is in use
            if self._publisher.vocabulary_changed():
                self._publisher.publish_labels()
            response.vocabulary = self._publisher.labels
        # A cloud with the ids of the old labels must not stay: with cloud_period 0 nothing else replaces it.
        self._publisher.replace_cloud()

    def _on_save_map(self, _: Trigger.Request, response: Trigger.Response) -> None:
        folder = Path(self._config.map_folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"map_{datetime.now():%Y%m%d_%H%M%S_%f}.ply"  # to the microsecond: no two are alike
        response.message = str(self._pipeline.save(path))

    def _on_publish_map(self, _: Trigger.Request, response: Trigger.Response) -> None:
        response.message = f"{self._publisher.publish_cloud()} points"

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> None:
        self._reset()
        response.message = "the map is empty"


def _requested_vocabulary(labels: Sequence[str], name: str) -> list[str] | str:
    """The labels, or the name of a shipped vocabulary: a name from outside is never taken for a path."""
    if labels and name:
        raise ValueError(f"both labels and name {name!r} are given: expected one of them")
    if labels:
        return list(labels)
    if name not in shipped_vocabularies():
        raise ValueError(f"vocabulary {name!r}: expected labels, or one of {', '.join(shipped_vocabularies())}")
    return name
