"""Mapping: from posed RGB-D frames to a bounded map of 3D Gaussians."""

from chorus_core.mapping.frame_gate import FrameGate
from chorus_core.mapping.gaussian_map import GaussianMap, IntegrateReport, MapSnapshot

__all__ = ["FrameGate", "GaussianMap", "IntegrateReport", "MapSnapshot"]
