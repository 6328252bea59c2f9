"""Measurements on scenes with ground truth and on recordings; what ``python -m training.evaluate`` reports."""
