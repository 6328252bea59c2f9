"""2D teachers: frozen networks whose image features the 3D encoder learns to predict."""

from chorus_core.teachers.base import FeatureTable, Teacher, TeacherError, grid_cells
from chorus_core.teachers.cache import CachedTeacher
from chorus_core.teachers.loading import load_teacher

__all__ = ["CachedTeacher", "FeatureTable", "Teacher", "TeacherError", "grid_cells", "load_teacher"]
