"""Readers of data sets: each turns a scene on disk into a :class:`~training.datasets.base.SceneSource`."""

from training.datasets.base import DatasetError, LabelledPoints, PosedImage, SceneSource
from training.datasets.registry import DATASETS, open_dataset

__all__ = ["DATASETS", "DatasetError", "LabelledPoints", "PosedImage", "SceneSource", "open_dataset"]
