"""The settings of every command with their descriptions, and which of them a fair comparison holds equal.

Hydra's values come in as dataclasses by `src.cli`; every other package reads them from here.
"""
