"""Mapping: from posed RGB-D frames to a bounded map of 3D Gaussians that tells its readers what changed."""

from chorus_core.mapping.frame_gate import FrameGate
from chorus_core.mapping.gaussian_map import GaussianMap, IntegrateReport, MapSnapshot
from chorus_core.mapping.keyframes import Keyframe, KeyframeStore
from chorus_core.mapping.mirror import MapMirror
from chorus_core.mapping.revisions import Changes, Cursor

__all__ = [
    "Changes",
    "Cursor",
    "FrameGate",
    "GaussianMap",
    "IntegrateReport",
    "Keyframe",
    "KeyframeStore",
    "MapMirror",
    "MapSnapshot",
]
