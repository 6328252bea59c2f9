"""Mapping: from posed RGB-D frames to a bounded map of 3D Gaussians."""

from chorus_core.mapping.gaussian_map import GaussianMap, IntegrateReport, MapSnapshot

__all__ = ["GaussianMap", "IntegrateReport", "MapSnapshot"]
