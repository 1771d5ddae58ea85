"""Measures: the memory that `src/model` predicts, and what a machine can do."""
