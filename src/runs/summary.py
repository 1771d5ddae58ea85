"""summary.json: settings, contract and results of a run; the only file that a report needs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from src.config.comparability import Scalar, with_current_names
from src.config.schema import StageConfig, TrainConfig
from src.data.dataset import Data
from src.model.cost.model_cost import ModelCost
from src.model.size_matching import Match
from src.runtime.atomic_files import finite_or_none
from src.runtime.records import read_record

if TYPE_CHECKING:
    from src.runtime.device import Device
    from src.training.progress import Progress

FILE = "summary.json"
REMEDY = "train the run again with rerun=true, or remove its folder"

MUTABLE_KEYS = ("git_commit", "torch", "processes", "runtime.threads", "runtime.parallel", "host_shared")
"""Contract keys that may differ when a run is resumed; the contract then holds both values."""


class Shared(TypedDict):
    """The part of a branch's training that its origin stage did."""

    tokens: int
    train_flops: float
    train_time_s: float
    wall_time_s: float


class StageSummary(TypedDict):
    """Results of one stage; tokens, FLOPs and times of a branch include the part of its origin."""

    corpus: str
    status: str
    steps: int
    tokens: int
    train_flops: float
    val_loss: float | None
    val_bits_per_byte: float | None
    val_accuracy: NotRequired[float | None]
    """Of the answers, for a task."""
    best_val_loss: float | None
    tokens_per_second: float
    peak_memory_bytes: int
    wall_time_s: float
    checkpoint_time_s: NotRequired[float]
    """The part of it in which training waited for checkpoints; missing in runs of earlier versions."""
    skipped_steps: int
    rollbacks: int
    references: dict[str, float | None]
    samples_sha256: NotRequired[str]
    branch_of: NotRequired[str]
    shared: NotRequired[Shared]


class Final(TypedDict):
    """Results of all stages together."""

    tokens: int
    train_flops: float
    val_loss: float | None
    val_bits_per_byte: float | None
    val_accuracy: NotRequired[float | None]
    tokens_per_second: float
    peak_memory_bytes: int
    wall_time_s: float


class Metrics(TypedDict):
    """Digest of metrics.jsonl, and whether rows were lost during the run."""

    rows: int
    sha256: str
    lost: bool


class Summary(TypedDict):
    """The content of summary.json."""

    format_version: Literal[1]
    run: str
    status: Literal["running", "done", "failed", "interrupted"]
    error: str | None
    architecture: str
    size: str
    recipe: str
    stage: str
    data: str
    seed: int
    data_order_seed: NotRequired[int | None]
    match: str
    match_residual: float
    solved: dict[str, Any]
    model: dict[str, Any]
    accounting: dict[str, float]
    contract: dict[str, Scalar]
    environment: dict[str, Any]
    stages: dict[str, StageSummary]
    final: Final | None
    metrics: NotRequired[Metrics]
    command: NotRequired[str]
    """Repeats the run (`explicit_command`); missing in runs of earlier versions."""


def read_summary(folder: Path) -> Summary | None:
    """Read the summary of a run; None if there is none. Raises: UserError if it is damaged."""
    path = folder / FILE
    if not os.path.lexists(path):
        return None
    summary = read_record(path, Summary, REMEDY)
    summary["contract"] = with_current_names(summary["contract"])
    return summary


def stage_summary(
    data: Data, stage: StageConfig, progress: "Progress", cost: ModelCost, device: "Device"
) -> StageSummary:
    """Return the results of one stage."""
    summary: StageSummary = {
        "corpus": stage.corpus,
        "status": "done",
        "steps": progress.step,
        "tokens": progress.tokens,
        "train_flops": progress.tokens * cost.train_flops_per_token,
        "val_loss": finite_or_none(progress.val_loss),
        "val_bits_per_byte": finite_or_none(progress.val_bits_per_byte),
        "best_val_loss": finite_or_none(progress.best_val_loss),
        "tokens_per_second": progress.tokens / progress.train_time_s,
        "peak_memory_bytes": device.memory_bytes(),
        "wall_time_s": progress.wall_time_s,
        "checkpoint_time_s": progress.checkpoint_time_s,
        "skipped_steps": progress.skipped_steps,
        "rollbacks": progress.rollbacks,
        "references": data.references(stage.corpus, "val"),
    }
    if progress.val_accuracy is not None:
        summary["val_accuracy"] = progress.val_accuracy
    if stage.branch_of is not None:
        summary["branch_of"] = stage.branch_of
        summary["shared"] = {
            "tokens": progress.shared_tokens,
            "train_flops": progress.shared_tokens * cost.train_flops_per_token,
            "train_time_s": progress.shared_train_time_s,
            "wall_time_s": progress.shared_wall_time_s,
        }
    return summary


def final_summary(stages: dict[str, StageSummary]) -> Final:
    """Sum the stages, each token once; the losses are those of the last stage that is not a branch."""
    done = list(stages.values())
    shared = [stage["shared"] for stage in done if "shared" in stage]
    last = [stage for stage in done if "branch_of" not in stage][-1]
    tokens = sum(stage["tokens"] for stage in done) - sum(part["tokens"] for part in shared)
    train_time_s = sum(stage["tokens"] / stage["tokens_per_second"] for stage in done)
    final: Final = {
        "tokens": tokens,
        "train_flops": sum(stage["train_flops"] for stage in done) - sum(part["train_flops"] for part in shared),
        "val_loss": last["val_loss"],
        "val_bits_per_byte": last["val_bits_per_byte"],
        "tokens_per_second": tokens / (train_time_s - sum(part["train_time_s"] for part in shared)),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in done),
        "wall_time_s": sum(stage["wall_time_s"] for stage in done) - sum(part["wall_time_s"] for part in shared),
    }
    if "val_accuracy" in last:
        final["val_accuracy"] = last["val_accuracy"]
    return final


def start_summary(
    config: TrainConfig,
    contract: dict[str, Scalar],
    folder: Path,
    device: "Device",
    match: Match,
    cost: ModelCost,
) -> Summary:
    """Create the summary of a run with this contract, or continue the existing one."""
    before = read_summary(folder)
    if any((folder / "checkpoints").glob("*/last")):  # the run is resumed
        earlier = before["contract"] if before else {}
        contract = contract | {key: join_values(earlier.get(key), contract[key]) for key in MUTABLE_KEYS}
    summary: Summary = {
        "format_version": 1,
        "run": folder.name,
        "status": "running",
        "error": None,
        "architecture": config.architecture.name,
        "size": config.size.name,
        "recipe": config.recipe.name,
        "stage": config.stage.name,
        "data": config.data.name,
        "seed": config.seed,
        "data_order_seed": config.data_order_seed,
        "match": config.match,
        "match_residual": match.residual,
        "solved": match.solved,
        "model": match.spec.to_dict(),
        "accounting": cost.totals(),
        "contract": contract,
        "environment": {
            "device": device.kind,
            "processes": device.process_group.size,
            "threads": device.threads,
            "precision": device.precision,
        },
        "stages": before["stages"] if before else {},
        "final": before["final"] if before else None,
    }
    if before and "metrics" in before:
        summary["metrics"] = before["metrics"]
    return summary


def last_process_count(folder: Path) -> int:
    """Return how many processes trained a run when it was last started."""
    summary = read_summary(folder)
    return summary["environment"].get("processes", 1) if summary else 1


def join_values(before: Any, now: Any) -> Any:
    """Join two different values, so that a resumed run is equal to neither."""
    text = str(before)
    return now if before == now else before if text.endswith(f"then {now}") else f"{text}, then {now}"
