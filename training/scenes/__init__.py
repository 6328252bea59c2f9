"""Procedural indoor scenes: composed from textured models, seen by a simulated RGB-D camera, with ground truth."""
