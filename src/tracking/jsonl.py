"""metrics.jsonl: a row of JSON a line, on the disk as soon as it is written."""

import json
from pathlib import Path
from typing import Any

from src.runtime.files import write_text


class JsonlLog:
    """The metrics of one run, appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage_order: list[str], stage: str, step: int) -> None:
        """Drop what lies after `step` of `stage`, and a half-written last line: the run goes on from there."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                place = (stage_order.index(row["stage"]), row["step"])
            except (ValueError, KeyError, TypeError):
                continue
            if place <= (stage_order.index(stage), step):
                kept.append(line + "\n")
        write_text(self.path, "".join(kept))

    def log(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(row) + "\n")
