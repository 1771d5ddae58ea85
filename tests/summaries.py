"""Summaries of synthetic runs, for tests of code that reads summaries."""

from pathlib import Path
from typing import Any

from src.runtime.records import write_record


def summary(**changes: Any) -> dict[str, Any]:
    """Return the content of a summary.json of a run without stages, with some values changed."""
    return {
        "format_version": 1, "run": "dense-nano-language-s0-00000000", "status": "done", "error": None,
        "architecture": "dense", "size": "nano", "recipe": "modern", "stage": "language", "data": "local", "seed": 0,
        "match": "active", "match_residual": 0.0, "solved": {}, "model": {}, "accounting": {}, "contract": {},
        "environment": {"device": "cpu"}, "stages": {}, "final": None,
    } | changes  # fmt: skip


def final(tokens_per_second: float) -> dict[str, Any]:
    """Return the results of a run with this speed."""
    numbers = {"tokens": 1, "train_flops": 1.0, "peak_memory_bytes": 1, "wall_time_s": 1.0}
    return {**numbers, "val_loss": None, "val_bits_per_byte": None, "tokens_per_second": tokens_per_second}


def stage_results(*names: str) -> dict[str, Any]:
    """Return the results of finished stages."""
    numbers = {"steps": 1, "skipped_steps": 0, "rollbacks": 0, "best_val_loss": None, "references": {}}
    return {name: {"corpus": name, "status": "done", **numbers, **final(1.0)} for name in names}


def write_summary(folder: Path, **changes: Any) -> None:
    """Write a summary.json."""
    write_record(folder / "summary.json", summary(**changes))
