"""Evaluation of a model on fixed text, never on the training stream."""
