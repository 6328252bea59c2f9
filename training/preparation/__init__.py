"""From a data set's scenes to prepared ones: Gaussians, lifted teacher features, labels, chunks."""

from training.preparation.config import CutConfig, FitConfig, LiftConfig, PrepareConfig
from training.preparation.lift import lift_teachers
from training.preparation.scene import PreparationError, prepare_scene

__all__ = [
    "CutConfig",
    "FitConfig",
    "LiftConfig",
    "PreparationError",
    "PrepareConfig",
    "lift_teachers",
    "prepare_scene",
]
