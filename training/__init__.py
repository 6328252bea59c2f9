"""Offline side of the project: scene generation, pretraining, adaptation, evaluation."""
