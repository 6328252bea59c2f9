"""Probes: what a pretrained encoder is worth to a segmentation that is trained on its features with labels."""

from training.probes.config import KINDS, ProbeConfig
from training.probes.probe import Probe, evaluate_probe
from training.probes.selection import choose_scenes, keep_points
from training.probes.train import train_probe

__all__ = ["KINDS", "Probe", "ProbeConfig", "choose_scenes", "evaluate_probe", "keep_points", "train_probe"]
