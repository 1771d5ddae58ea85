"""Weights & Biases without prompts, hangs or failed runs: offline without a key or after an error."""

import netrc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

from src.config.schema import TrackingConfig
from src.runtime.errors import first_line
from src.tracking.tracker import Comparison

INIT_TIMEOUT_S = 5


def has_api_key() -> bool:
    """Return whether W&B finds an API key in the environment or in a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):
        return False


class WandbTracker:
    """A run on W&B, online or offline."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, row: dict[str, Any], global_step: int) -> None:
        self.run.log(row, step=global_step)

    def rewind(self, global_step: int) -> None:
        """Do nothing: W&B ignores repeated steps, and their values are equal."""

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        import wandb

        rows: list[Any] = [[sample["prompt"], sample["text"]] for sample in samples]
        self.run.log({f"samples/{stage}": wandb.Table(columns=["prompt", "text"], data=rows)}, step=global_step)

    def log_comparison(self, comparison: Comparison) -> None:
        import wandb

        columns: list[Any] = [*comparison.columns]
        rows: list[Any] = [*comparison.rows]
        self.run.log({"comparison": wandb.Table(columns=columns, data=rows)})
        self.run.summary.update(comparison.texts)
        report = wandb.Artifact(f"report-{self.run.id}", type="report")
        report.add_dir(str(comparison.report))
        self.run.log_artifact(report)

    def summarize(self, results: dict[str, Any]) -> None:
        self.run.summary.update({f"final/{key}": value for key, value in results.items()})

    def finish(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)


def find_home(folder: Path) -> str:
    """Return the user's home from the system's user list, or `folder` if there is none."""
    try:
        return str(Path.home())
    except RuntimeError:
        return str(folder)


def start(
    config: TrackingConfig,
    run_dir: Path,
    settings: dict[str, Any],
    log_info: Callable[[str], None],
    job_type: str | None,
) -> WandbTracker | None:
    """Open a W&B run; on failure log the reason and return None."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("HOME", find_home(run_dir))  # without HOME its service logs every step to the terminal
    import wandb

    mode = config.mode if config.mode != "auto" else ("online" if has_api_key() else "offline")
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        mode = os.environ["WANDB_MODE"]
    for attempt in dict.fromkeys((mode, "offline")):
        try:
            run = wandb.init(
                project=config.project,
                entity=config.entity,
                group=config.group,
                job_type=job_type,
                tags=config.tags,
                name=run_dir.name,
                id=run_dir.name[-64:],
                resume="allow" if attempt == "online" else None,
                dir=run_dir,
                mode=cast(Literal["online", "offline", "disabled"], attempt),
                config=settings,
                settings=wandb.Settings(console="off", init_timeout=INIT_TIMEOUT_S, silent=True),
            )
            later = f" (upload later: wandb sync {run_dir}/wandb/offline-*)" if attempt == "offline" else ""
            log_info(f"W&B: {attempt}{later}")
            return WandbTracker(run)
        except Exception as error:  # its errors have no common base, and none should stop training
            log_info(f"W&B: {attempt} failed ({first_line(error)})")
            wandb.teardown()  # otherwise its service keeps the id of the run
    return None
