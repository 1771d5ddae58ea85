"""Synthetic tasks: examples that are computed from a seed and their number, with answers that can be scored.

Each task is a file with a `Task`; `registry.py` lists them. `../../task_data.py` makes batches and test sets of them.
"""
