"""The settings of every command, their limits, and which of them a fair comparison holds equal.

Hydra's values come in as dataclasses by `src.cli`; every other package reads them from here.
"""
