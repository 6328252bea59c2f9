"""The perception node in this process, so that what it runs on can be made to fail. The tests go on from each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from chorus_msgs.srv import Query, SetVocabulary
from diagnostic_msgs.msg import DiagnosticStatus
from harness import DOMAIN, PARAMETERS, Client, frame_messages, odometry_tf, render, static_tf, until
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from chorus_ros import conversions, qos
from chorus_ros.executor import PromptExecutor
from chorus_ros.node import PerceptionNode
from chorus_ros.player import CAMERA_FRAME

_, _, POSE = render(0)
TODAY = Time(sec=1_750_000_000, nanosec=123_456_789)  # through a float it comes back 235 ns later


@pytest.fixture(scope="module")
def node(checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PerceptionNode]:
    parameters = PARAMETERS | {
        "encoder.checkpoint": checkpoint,
        "map.max_gaussians": 1000,  # less than the room has: some are refused
        "publish.cloud_period": 0.0,
        "publish.stale_after": 0.5,
        "publish.map_folder": tmp_path_factory.mktemp("maps"),
    }
    context = rclpy.context.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    node = PerceptionNode(context=context, cli_args=["--ros-args", *arguments])
    executor = PromptExecutor(4, context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield node
    executor.shutdown()
    thread.join()
    node.close()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def fed(node: PerceptionNode, client: Client) -> Client:
    """When the node hears the client."""
    until(lambda: "/chorus/status" in client.last and "/chorus/labels" in client.last)
    inputs = (client.color, client.depth, client.info, client.tf, client.tf_static)
    until(lambda: all(p.get_subscription_count() for p in inputs))
    client.tf_static.publish(static_tf())
    return client


def after(stamp: Time, seconds: float) -> Time:
    return conversions.time_message(conversions.nanoseconds(stamp) + round(seconds * 1e9))


def feed(client: Client, *stamps: Time, **fields: Any) -> None:
    """Frames with their poses, integrated."""
    before = client.status.integrated
    for stamp in (after(stamps[0], -0.05), after(stamps[-1], 0.05)):
        client.tf.publish(odometry_tf(conversions.nanoseconds(stamp) * 1e-9, POSE))
    for stamp in stamps:
        color, depth, info = frame_messages(stamp)
        depth.header = Header(stamp=stamp, frame_id=depth.header.frame_id)
        for name, value in fields.items():
            color.header = Header(stamp=stamp, **{name: value})
        for publisher, message in zip((client.color, client.depth, client.info), (color, depth, info), strict=True):
            publisher.publish(message)
    until(lambda: client.status.integrated >= before + len(stamps), explain=lambda: client.status)


def map_diagnostics(client: Client) -> DiagnosticStatus:
    return next(s for s in client.last["/diagnostics"].status if s.name.endswith(": map"))


def labels_of(cloud: Any) -> set[int]:
    return set(np.frombuffer(bytes(cloud.data), conversions.CLOUD_DTYPE)["label"].tolist())


def test_silent_inputs_are_named(fed: Client, capfd: pytest.CaptureFixture[str]) -> None:
    text = ""

    def said() -> bool:
        nonlocal text
        text += capfd.readouterr().err
        return "nothing has arrived in the" in text

    until(said, 30.0, lambda: text)
    assert "/camera/color/image_raw (Image, raw, publishers 1)" in text
    assert "/camera/depth/image_raw (Image, raw, publishers 1)" in text
    assert "/camera/color/camera_info (CameraInfo, raw, publishers 1)" in text


def test_depth_of_another_frame_is_said_once_and_mapped(fed: Client, capfd: pytest.CaptureFixture[str]) -> None:
    feed(fed, *(after(TODAY, 0.1 * i) for i in range(3)), frame_id="color_optical_frame")
    text = capfd.readouterr().err
    assert text.count(f"colour is in frame 'color_optical_frame', depth in '{CAMERA_FRAME}'") == 1
    assert "depth must be registered to colour" in text
    assert fed.status.gaussians > 200


def test_results_carry_the_stamp_of_the_newest_frame_to_the_nanosecond(fed: Client) -> None:
    newest = after(TODAY, 10.000000011)
    feed(fed, after(TODAY, 9.8), after(TODAY, 9.9), newest)
    until(lambda: fed.status.last_encode_stamp == newest, 60.0, lambda: (fed.status, newest))
    assert fed.call(Trigger, "/chorus/publish_map", Trigger.Request()).success
    until(lambda: "/chorus/semantic_cloud" in fed.last)
    assert fed.last["/chorus/semantic_cloud"].header.stamp == newest
    until(lambda: fed.last["/chorus/objects"].markers[0].header.stamp == newest)
    answer = fed.query("a wall", threshold=0.001)
    assert answer.success, answer.message
    assert answer.map_stamp == newest
    assert all(item.header.stamp == newest for item in answer.objects)


def test_status_says_how_much_is_encoded_and_evicted(fed: Client) -> None:
    assert fed.status.encoded == 1.0
    assert fed.status.evicted > 0
    assert fed.status.encode_failures == 0
    assert map_diagnostics(fed).level == DiagnosticStatus.OK


def test_failing_encoder_is_reported(
    fed: Client, node: PerceptionNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no memory left")

    published = []
    with monkeypatch.context() as patched:
        patched.setattr(node._pipeline.encoder, "encode", fail)
        patched.setattr(node._publisher._objects_out, "publish", published.append)
        feed(fed, *(after(TODAY, 20.0 + 0.1 * i) for i in range(3)))
        until(lambda: fed.status.encode_failures > 1)
        until(lambda: map_diagnostics(fed).level == DiagnosticStatus.WARN)
        assert "times: RuntimeError: no memory left" in map_diagnostics(fed).message
        assert "times so far: RuntimeError: no memory left" in capfd.readouterr().err
        node._publisher.report_objects()
        published.clear()
        node._publisher.report_objects()
        assert not published  # nothing came: what would be shown is the same
    until(lambda: map_diagnostics(fed).level == DiagnosticStatus.OK)
    assert fed.status.encode_failures > 1
    until(lambda: fed.status.last_encode_stamp == after(TODAY, 20.2), explain=lambda: fed.status)


def test_encoding_thread_that_ended_is_an_error(
    fed: Client, node: PerceptionNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(type(node._pipeline), "ended", "OverflowError: timestamp too large")
        until(lambda: map_diagnostics(fed).level == DiagnosticStatus.ERROR)
        assert map_diagnostics(fed).message == "the encoding thread ended: OverflowError: timestamp too large"
    assert "the encoding thread ended: OverflowError: timestamp too large; start the node" in capfd.readouterr().err
    until(lambda: map_diagnostics(fed).level == DiagnosticStatus.OK)


def test_refused_vocabulary_keeps_the_stamp_of_the_old_one(fed: Client) -> None:
    set_at = fed.last["/chorus/labels"].header.stamp
    for refused in ({"labels": ["a", "a"]}, {"name": "/etc/hostname"}, {}):
        answer = fed.call(SetVocabulary, "/chorus/set_vocabulary", SetVocabulary.Request(**refused))
        assert not answer.success
        assert answer.vocabulary.header.stamp == set_at
    assert fed.last["/chorus/labels"].header.stamp == set_at
    answer = fed.call(SetVocabulary, "/chorus/set_vocabulary", SetVocabulary.Request(labels=["one", "two"]))
    assert answer.success, answer.message
    assert conversions.nanoseconds(answer.vocabulary.header.stamp) > conversions.nanoseconds(set_at)
    until(lambda: list(fed.last["/chorus/labels"].names) == ["one", "two"])


def test_published_cloud_follows_the_vocabulary(fed: Client) -> None:
    """Without a period nothing else would replace the latched cloud, whose ids mean other names now."""
    assert fed.call(Trigger, "/chorus/publish_map", Trigger.Request()).success
    fed.last.pop("/chorus/semantic_cloud", None)
    answer = fed.call(SetVocabulary, "/chorus/set_vocabulary", SetVocabulary.Request(labels=["everything"]))
    assert answer.success, answer.message
    until(lambda: "/chorus/semantic_cloud" in fed.last and labels_of(fed.last["/chorus/semantic_cloud"]) == {0})


def test_many_requests_at_once_are_all_answered(
    fed: Client, node: PerceptionNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that come while another is being answered: ROS keeps ten by default and loses the others."""
    count, query, go_on = 40, node._pipeline.query, threading.Event()

    def slow(*arguments: Any) -> Any:
        assert go_on.wait(30.0)
        return query(*arguments)

    monkeypatch.setattr(node._pipeline, "query", slow)
    asking = fed.node.create_client(Query, "/chorus/query", qos_profile=qos.SERVICES)
    try:
        assert asking.wait_for_service(30.0)
        texts = [f"thing {number}" for number in range(count)]
        answers = [asking.call_async(Query.Request(text=text)) for text in texts]
        time.sleep(0.5)  # so that they all arrive while the first is held up
        go_on.set()
        until(lambda: all(a.done() for a in answers), 60.0, lambda: sum(a.done() for a in answers))
        assert [a.result().text for a in answers] == texts
    finally:
        go_on.set()
        fed.node.destroy_client(asking)


def test_answer_says_what_was_searched_for(fed: Client) -> None:
    """ROS cuts a string at NUL before it is sent: nobody but the client can see that, if the answer tells it."""
    assert fed.query("  a chair ").text == "a chair"
    assert fed.query("chair\0table").text == "chair"
    assert fed.query("").text == ""


def test_reset_restarts_every_counter(fed: Client) -> None:
    before = fed.status
    assert before.frames and before.encodes and before.evicted and before.encode_failures and before.stages
    answer = fed.call(Trigger, "/chorus/reset", Trigger.Request())
    assert answer.success, answer.message
    until(lambda: fed.status.frames == 0)
    status = fed.status
    counters = (status.gaussians, status.integrated, status.evicted, status.encodes, status.encode_failures)
    assert counters == (0, 0, 0, 0, 0)
    assert (status.encoded, status.last_encode_seconds, status.last_encode_stamp) == (0.0, 0.0, Time())
    assert not status.drop_causes
    assert not status.stages
    feed(fed, *(after(TODAY, 30.0 + 0.1 * i) for i in range(3)))
    until(lambda: fed.status.encodes > 0, 60.0)
    assert fed.status.frames == fed.status.integrated == 3


def test_queries_go_on_while_a_vocabulary_is_set_and_the_end_of_the_node_cancels_it(
    fed: Client, node: PerceptionNode
) -> None:
    """The last test: the node is told to end."""
    many = SetVocabulary.Request(labels=[f"thing number {i} of a long list" for i in range(8000)])
    setting = fed.node.create_client(SetVocabulary, "/chorus/set_vocabulary")
    try:
        assert setting.wait_for_service(30.0)
        answer = setting.call_async(many)
        for text in ("a wall", "a new text"):
            assert fed.query(text).success
        assert not answer.done()
        node.stop()
        until(answer.done, 20.0)
        assert not answer.result().success
        assert "cancelled" in answer.result().message
        assert list(answer.result().vocabulary.names) == ["everything"]
    finally:
        fed.node.destroy_client(setting)
