"""Measures what `src/model` predicts: memory of training and inference."""
