"""Quality of service of every topic, in one place."""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from chorus_ros.node_config import QOS_POLICIES


def overridable(profile: QoSProfile) -> dict[str, Any]:
    """Arguments for ``create_publisher`` and ``create_subscription`` that let ``qos_overrides`` change a profile."""
    own = QoSProfile(
        history=profile.history,
        depth=profile.depth,
        reliability=profile.reliability,
        durability=profile.durability,
    )  # rclpy writes the overrides into it
    kinds = tuple(QoSPolicyKind[name.upper()] for name in QOS_POLICIES)
    return {"qos_profile": own, "qos_overriding_options": QoSOverridingOptions(kinds)}


def sensor_input(depth: int = 10, reliability: str = "best_effort") -> QoSProfile:
    """For camera and pose streams. A best-effort subscription also receives from reliable publishers."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.VOLATILE,
    )


LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""For results: who subscribes late still gets the newest."""

STREAM = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""For what the player publishes, and diagnostics."""

TF = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE)
"""As tf2_ros has it for ``/tf``."""

TF_STATIC = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""As tf2_ros has it for ``/tf_static``."""

SERVICES = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1000,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""For services. A request that does not fit is lost without an answer, and ROS's default of 10 is soon full: an
operator's page, a planner and a script that ask at once are enough. Bounded, because requests cost memory."""
