"""Rates, staleness and drops as diagnostics show them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from chorus_core.pipeline import PipelineStatus
from chorus_ros.diagnostics import DropMonitor, StreamMonitor, diagnostic_array, map_status


def test_rate_and_age() -> None:
    monitor = StreamMonitor("color")
    for i in range(31):
        monitor.tick(100.0 + i / 30)
    assert monitor.rate(101.0) == pytest.approx(30.0)
    assert monitor.age(102.5) == pytest.approx(1.5)
    assert monitor.rate(150.0) == 0.0


def test_stale_streams() -> None:
    monitor = StreamMonitor("color")
    assert monitor.status(0.0, 5.0).level == DiagnosticStatus.STALE
    monitor.tick(1.0)
    assert monitor.status(2.0, 5.0).level == DiagnosticStatus.OK
    assert monitor.status(9.0, 5.0).level == DiagnosticStatus.STALE


def test_drops_warn_only_while_they_grow() -> None:
    monitor = DropMonitor()
    assert monitor.status({}).level == DiagnosticStatus.OK
    grown = monitor.status({"no_pose": 3})
    assert grown.level == DiagnosticStatus.WARN
    assert "no_pose +3" in grown.message
    assert monitor.status({"no_pose": 3}).level == DiagnosticStatus.OK


def test_drops_after_a_reset_warn_too() -> None:
    monitor = DropMonitor()
    monitor.status({"no_pose": 30, "reset": 5})
    after = monitor.status({"no_pose": 2, "reset": 5})
    assert after.level == DiagnosticStatus.WARN
    assert after.message == "no_pose +2"


def status_of(**fields: Any) -> PipelineStatus:
    """A healthy pipeline, but for what is given."""
    healthy = PipelineStatus(
        map_id="0",
        gaussians=10,
        objects=1,
        frames=3,
        keyframes=2,
        held={},
        encodes=2,
        encode_failures=0,
        last_error="",
        evicted=0,
        encoded=1.0,
        last_encode_stamp=1,
        last_encode_seconds=0.1,
        stage_ms={"integrate": (1.0, 2.0)},
    )
    return dataclasses.replace(healthy, **fields)


def test_map_warns_while_encoding_fails() -> None:
    failing = map_status(status_of(encode_failures=3, last_error="RuntimeError: no memory", encoded=0.25, evicted=7))
    assert failing.level == DiagnosticStatus.WARN
    assert failing.message == "encoding failed 3 times: RuntimeError: no memory"
    values = {v.key: v.value for v in failing.values}
    assert (values["encode failures"], values["encoded (%)"], values["evicted"]) == ("3", "25.0", "7")
    recovered = map_status(status_of(encode_failures=3))
    assert recovered.level == DiagnosticStatus.OK
    assert {v.key: v.value for v in recovered.values}["encode failures"] == "3"


def test_map_is_in_error_once_its_thread_ended() -> None:
    dead = map_status(status_of(ended="OverflowError: timeout", last_error="RuntimeError: no memory"))
    assert dead.level == DiagnosticStatus.ERROR
    assert dead.message == "the encoding thread ended: OverflowError: timeout"


def test_array_names_the_node() -> None:
    array = diagnostic_array(Time(sec=1), "/perception_node", [map_status(status_of())])
    (status,) = array.status
    assert status.name == "/perception_node: map"
    assert {v.key: v.value for v in status.values}["integrate (ms)"] == "p50 1.0, p99 2.0"


def test_frames_held_back_are_listed_by_cause() -> None:
    status = map_status(status_of(held={"pose_jump": 3, "still": 40}))
    values = {pair.key: pair.value for pair in status.values}
    assert values["held back (pose_jump)"] == "3"
    assert values["held back (still)"] == "40"
    assert status.level == DiagnosticStatus.OK, "those that warn are counted as drops"
