"""Training of the embedded 2D teacher on rendered views; ``python -m training.teach`` runs it."""
