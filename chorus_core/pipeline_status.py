"""How the pipeline is doing, and what one of its steps did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EncodeReport:
    """One background step: Gaussians encoded, Gaussians in the map, seconds taken."""

    encoded: int
    total: int
    seconds: float


@dataclass
class PipelineStatus:
    """How the pipeline is doing.

    Attributes:
        map_id: UUID of the map.
        gaussians: in the map.
        objects: in it, as of the last step.
        frames: integrated.
        keyframes: kept of them.
        held: frames held back from the map, by cause: pose_jump, against_map, depth_scale, still.
        encodes: steps done.
        encode_failures: steps that failed.
        last_error: why the last step failed; empty where it did not.
        evicted: Gaussians given up, or not taken up, for want of room.
        encoded: share of the Gaussians handed out that had features after the last step, in [0, 1].
        last_encode_stamp: of the last frame that a step saw, nanoseconds.
        last_encode_seconds: what the last step took.
        stage_ms: p50 and p99 of each stage's last calls, milliseconds.
        ended: why the background thread ended by itself, after which nothing is encoded; empty where it did not.
    """

    map_id: str
    gaussians: int
    objects: int
    frames: int
    keyframes: int
    held: dict[str, int]
    encodes: int
    encode_failures: int
    last_error: str
    evicted: int
    encoded: float
    last_encode_stamp: int
    last_encode_seconds: float
    stage_ms: dict[str, tuple[float, float]]
    ended: str = ""
