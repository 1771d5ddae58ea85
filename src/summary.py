"""summary.json: what a run is, under which rules it was made, and what came of it; all that a report reads."""

import os
import subprocess
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from src.config import ROOT, StageConfig, TrainConfig
from src.contract import Scalar
from src.data.loader import build_loader
from src.data.packing import PreparedData
from src.data.prepared import folder_of
from src.model.accounting import ModelCost
from src.model.matching import Match
from src.runtime.files import finite
from src.runtime.records import read_record
from src.training.stage import plan_stage

if TYPE_CHECKING:
    from src.runtime.device import Device
    from src.training.checkpoint import CheckpointInfo, Progress

FILE = "summary.json"
REMEDY = "train the run again with rerun=true, or remove its folder"

MAY_CHANGE = ("git_commit", "torch", "processes", "threads", "host_shared")
"""What may be another thing when a run is resumed; the contract then says both."""


class StageSummary(TypedDict):
    """What became of one stage."""

    corpus: str
    status: str
    steps: int
    tokens: int
    train_flops: float
    val_loss: float | None
    val_bits_per_byte: float | None
    best_val_loss: float | None
    tokens_per_second: float
    peak_memory_bytes: int
    wall_time_s: float
    skipped_steps: int
    rollbacks: int
    references: dict[str, float | None]
    samples_sha256: NotRequired[str]


class Final(TypedDict):
    """What became of all stages together."""

    tokens: int
    train_flops: float
    val_loss: float | None
    val_bits_per_byte: float | None
    tokens_per_second: float
    peak_memory_bytes: int
    wall_time_s: float


class Metrics(TypedDict):
    """What metrics.jsonl holds, and whether rows of it were lost while the run was unfinished."""

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


def read_summary(folder: Path) -> Summary | None:
    """Read the summary of a run; None where there is none yet. Raises: UserError where it is damaged."""
    path = folder / FILE
    return read_record(path, Summary, REMEDY) if os.path.lexists(path) else None


def stage_summary(
    data: PreparedData, stage: StageConfig, progress: "Progress", cost: ModelCost, device: "Device"
) -> StageSummary:
    """Say what became of one stage."""
    return {
        "corpus": stage.corpus,
        "status": "done",
        "steps": progress.step,
        "tokens": progress.tokens,
        "train_flops": progress.tokens * cost.train_flops_per_token,
        "val_loss": finite(progress.val_loss),
        "val_bits_per_byte": finite(progress.val_bits_per_byte),
        "best_val_loss": finite(progress.best_val_loss),
        "tokens_per_second": progress.tokens / progress.train_time_s,
        "peak_memory_bytes": device.memory_bytes(),
        "wall_time_s": progress.wall_time_s,
        "skipped_steps": progress.skipped_steps,
        "rollbacks": progress.rollbacks,
        "references": data.references(stage.corpus, "val"),
    }


def final_summary(stages: dict[str, StageSummary]) -> Final:
    """Sum up the stages; the losses are those of the last."""
    done = list(stages.values())
    tokens = sum(stage["tokens"] for stage in done)
    return {
        "tokens": tokens,
        "train_flops": sum(stage["train_flops"] for stage in done),
        "val_loss": done[-1]["val_loss"],
        "val_bits_per_byte": done[-1]["val_bits_per_byte"],
        "tokens_per_second": tokens / sum(stage["tokens"] / stage["tokens_per_second"] for stage in done),
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in done),
        "wall_time_s": sum(stage["wall_time_s"] for stage in done),
    }


def start_summary(
    config: TrainConfig,
    data: PreparedData,
    folder: Path,
    device: "Device",
    match: Match,
    cost: ModelCost,
    init: "CheckpointInfo | None",
) -> Summary:
    """Begin the summary of a run, or go on with the one that is there."""
    before = read_summary(folder)
    contract = contract_of(config, data, device, init)
    if any((folder / "checkpoints").glob("*/last")):  # this sitting goes on with the work of another
        earlier = before["contract"] if before else {}
        contract |= {key: joined(earlier.get(key), contract[key]) for key in MAY_CHANGE}
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
        "match": config.match,
        "match_residual": match.residual,
        "solved": match.solved,
        "model": match.spec.to_dict(),
        "accounting": cost.totals(),
        "contract": contract,
        "environment": {
            "device": device.kind,
            "processes": device.world.size,
            "threads": device.threads,
            "precision": device.precision,
        },
        "stages": before["stages"] if before else {},
        "final": before["final"] if before else None,
    }
    if before and "metrics" in before:
        summary["metrics"] = before["metrics"]
    return summary


def contract_of(
    config: TrainConfig, data: PreparedData | None, device: "Device", init: "CheckpointInfo | None"
) -> dict[str, Scalar]:
    """Gather what has to be equal for two runs to be ranked; `src.contract` says what each key means.

    data: None where they are not prepared yet; then what they are to be stands for what they are.
    """
    import torch

    from src.lineage import lineage_of

    training = config.training
    return {
        "size": config.size.name,
        "match": config.match,
        "recipe": _text(asdict(config.recipe)),
        **_contents(config, data),
        "budget": training.budget,
        "stages": _text({name: _budget(config, name, stage) for name, stage in config.stage.stages.items()}),
        "init_from": lineage_of(init) if init else None,
        "seq_len": training.seq_len,
        "global_batch_tokens": training.global_batch_size * training.seq_len,
        "document_masking": training.document_masking,
        "eval_sequences": training.eval_sequences,
        "optimizer": _text(_optimizer(config)),
        "schedule": _text(asdict(config.schedule)),
        "learning_rate_search": config.optimizer.search,
        "precision": device.precision,
        "compile": config.runtime.compile,
        "torch": torch.__version__,
        "git_commit": _git_commit(),
        "device": device.kind,
        "processes": device.world.size,
        "threads": device.threads,
        "host_shared": config.launcher.name != "serial",
    }


def _optimizer(config: TrainConfig) -> dict[str, Any]:
    """Say what optimizes; a rate that was searched for is a result, and the search is the rule."""
    values = asdict(config.optimizer)
    searched = values.pop("search") not in ("none", "trial")
    if searched:
        del values["learning_rate"]
    for name, stage in config.stage.stages.items():
        plan = plan_stage(config, name, stage, 0)
        values[f"rate of {name}"] = f"{stage.learning_rate_scale} of it" if searched else plan.learning_rate
    return values


def _contents(config: TrainConfig, data: PreparedData | None) -> dict[str, str]:
    """Name the text that a run learns from, and the order of its batches."""
    if data is None:
        settings = folder_of(config.data, config.tokenizer, Path()).name
        return dict.fromkeys(("tokenizer_hash", "data_hash", "data_order_hash"), f"{settings}, not prepared yet")
    orders = {
        name: build_loader(data, stage, config.training.seq_len, 0).order_hash(data.fingerprint)
        for name, stage in config.stage.stages.items()
    }
    return {
        "tokenizer_hash": data.manifest["tokenizer"]["sha256"],
        "data_hash": data.fingerprint,
        "data_order_hash": _text(orders),
    }


def processes_of(folder: Path) -> int:
    """Return how many processes trained a run in its last sitting."""
    summary = read_summary(folder)
    return summary["environment"].get("processes", 1) if summary else 1


def joined(before: Any, now: Any) -> Any:
    """Say both where two sittings differ, so that the run is equal to neither."""
    text = str(before)
    return now if before == now else before if text.endswith(f"then {now}") else f"{text}, then {now}"


def _budget(config: TrainConfig, name: str, stage: StageConfig) -> str:
    """Say what a stage trains on and how long, in terms that are the same for every architecture."""
    training = config.training
    if training.budget == "time":
        return f"{_corpora(stage)} {training.max_seconds:g} s"
    steps = plan_stage(replace(config, training=replace(training, budget="tokens")), name, stage, 0).steps
    return f"{_corpora(stage)} {steps} steps" + (" of dense in FLOPs" if training.budget == "flops" else "")


def _corpora(stage: StageConfig) -> str:
    shares = " and ".join(f"{share} {corpus}" for corpus, share in stage.mix.items())
    return f"{stage.corpus} with {shares} for" if shares else stage.corpus


def _text(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())


@cache
def _git_commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
