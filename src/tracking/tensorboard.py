"""TensorBoard: event files in the run directory (`tensorboard --logdir outputs/runs`). Extra [tensorboard]."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"


class TensorboardTracker:
    """Event files of one run; a rewind starts a new file, which replaces the repeated steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def _open(self, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None or purge_step is not None:
            if self.writer is not None:
                self.writer.close()
            self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        return self.writer

    def log(self, row: dict[str, Any], global_step: int) -> None:
        writer = self._open()
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                writer.add_scalar(name, value, global_step)
        writer.flush()

    def rewind(self, global_step: int) -> None:
        self._open(purge_step=global_step + 1)

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        for number, sample in enumerate(samples):
            text = sample["text"].replace("\n", "\n    ")
            self._open().add_text(f"samples/{stage}/{number}", f"    {text}", global_step)  # indented: shown verbatim

    def summarize(self, results: dict[str, Any]) -> None:
        numbers = {name: value for name, value in results.items() if isinstance(value, (int, float))}
        self._open().add_text("summary", "\n".join(f"    {name}: {value:g}" for name, value in numbers.items()))

    def finish(self, exit_code: int) -> None:
        if self.writer is not None:
            self.writer.close()


def start_tensorboard(run_dir: Path, settings: dict[str, Any], log_info: Callable[[str], None]) -> TensorboardTracker:
    """Open the event files of a run and log how to view them."""
    tracker = TensorboardTracker(run_dir / FOLDER)
    text = "\n".join(f"    {line}" for line in _flatten(settings))
    tracker._open().add_text("config", text)
    log_info(f"TensorBoard: tensorboard --logdir {run_dir.parent}")
    return tracker


def _flatten(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return nested settings as lines of key=value."""
    lines: list[str] = []
    for key, value in values.items():
        lines += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}={value}"]
    return lines
