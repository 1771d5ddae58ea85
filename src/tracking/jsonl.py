"""metrics.jsonl: one JSON row per line, written at once."""

import json
import os
from pathlib import Path
from typing import Any

from src.runtime.atomic_files import append_text, read_bytes, write_text
from src.runtime.records import MetricsDigest, digest_lines


class JsonlLog:
    """The metrics file of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage_order: list[str], stage: str, step: int) -> None:
        """Drop rows after `step` of `stage` and a partly written last line: the run resumes from there."""
        if self.path.exists():
            write_text(self.path, "".join(self._lines(stage_order, stage, step)))

    def digest(self, stage_order: list[str], stage: str, step: int) -> MetricsDigest:
        """Return the digest of the rows up to `step` of `stage`."""
        return digest_lines(self._lines(stage_order, stage, step))

    def _lines(self, stage_order: list[str], stage: str, step: int) -> list[str]:
        """Return the valid rows up to a step of a stage."""
        if not os.path.lexists(self.path):
            return []
        kept = []
        for line in read_bytes(self.path).decode("utf-8", "replace").split("\n"):
            try:
                row = json.loads(line)
                place = (stage_order.index(row["stage"]), row["step"])
                if place <= (stage_order.index(stage), step):
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
        return kept

    def log(self, row: dict[str, Any]) -> None:
        append_text(self.path, json.dumps(row) + "\n")
