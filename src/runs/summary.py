"""summary.json: settings, contract and results of a run; the only file that a report needs."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from src.config.comparability import SEARCHED, SPEED_KEYS, Scalar, settings_of, with_current_names
from src.config.renamed import earlier_key
from src.config.schema import ROOT, StageConfig, TrainConfig
from src.data.dataset import Data, prepared_folder
from src.data.loader import build_loader
from src.model.cost.model_cost import ModelCost, model_cost
from src.model.size_matching import Match, reference_spec
from src.runtime.atomic_files import finite_or_none
from src.runtime.records import content_sha256, read_record
from src.training.stage_budget import plan_stage, stage_schedule

if TYPE_CHECKING:
    from src.runtime.device import Device
    from src.training.checkpoint import CheckpointInfo, Progress

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
    data: Data,
    folder: Path,
    device: "Device",
    match: Match,
    cost: ModelCost,
    init: "CheckpointInfo | None",
) -> Summary:
    """Create the summary of a run, or continue the existing one."""
    before = read_summary(folder)
    contract = build_contract(config, data, init, device)
    if any((folder / "checkpoints").glob("*/last")):  # the run is resumed
        earlier = before["contract"] if before else {}
        contract |= {key: join_values(earlier.get(key), contract[key]) for key in MUTABLE_KEYS}
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


def build_contract(
    config: TrainConfig, data: Data | None, init: "CheckpointInfo | None", device: "Device"
) -> dict[str, Scalar]:
    """Return the settings and versions that have to be equal for two runs to be ranked.

    data: None if it is not prepared yet; then its settings replace its content.
    """
    import torch

    runtime = replace(config.runtime, device=device.kind, precision=device.precision, threads=device.threads)
    return training_contract(replace(config, runtime=runtime), data, init) | {
        "torch": torch.__version__,
        "git_commit": _git_commit(),
        "processes": device.process_group.size,
        "host_shared": config.launcher.name != "serial",
    }


def training_contract(config: TrainConfig, data: Data | None, init: "CheckpointInfo | None") -> dict[str, Scalar]:
    """Return the part of a contract that does not depend on machine and versions; `data` as for `build_contract`."""
    reference = reference_spec(config)
    cost = model_cost(reference, config.training.seq_len)
    stages, searched = config.stage.stages, config.optimizer.search not in ("none", "trial")
    rules: dict[str, Scalar] = settings_of(config) | {
        "reference": f"{cost.active_non_embedding_params} active parameters, {cost.total_params} in all, "
        f"{cost.train_flops_per_token} FLOPs a token, vocabulary of {reference.vocab_size}",
        "stages": _join_items({name: _describe_budget(config, name, stage, cost) for name, stage in stages.items()}),
        "schedule.warmup_steps": SEARCHED if config.schedule.searched else config.schedule.warmup_steps,
        "warmup": SEARCHED if config.schedule.searched else None,
        "optimizer.learning_rate": None if searched else config.optimizer.learning_rate,
        "learning_rate_search": config.optimizer.search,
        "search_differences": "; ".join(config.optimizer.search_differences),
        "init_from": None,
        **_hash_contents(config, data),
    }
    if config.training.budget != "time" and not config.schedule.searched:
        rules["warmup"] = _join_items({name: _describe_warmup(config, name, stage) for name, stage in stages.items()})
    if init is not None:
        rules["init_from"] = describe_lineage(init)
    return rules


def reference_params(contract: Mapping[str, Scalar]) -> float | None:
    """Return the active parameters of the reference that a contract names; None if it names none."""
    found = re.match(r"(\d+) active parameters", str(contract.get("reference")))
    return float(found[1]) if found else None


def describe_lineage(info: "CheckpointInfo") -> str:
    """Describe the origin of weights independent of the architecture: stage, step and a hash of the contract."""
    summary = read_summary(info.folder.parents[2])
    contract = summary["contract"] if summary else {"run": info.run}
    rules = {earlier_key(key): value for key, value in contract.items() if key not in SPEED_KEYS}
    return f"{info.progress.stage} step {info.progress.step} of contract {content_sha256(rules)[:12]}"


def _describe_warmup(config: TrainConfig, name: str, stage: StageConfig) -> str:
    reference = _with_token_budget(config)
    steps = plan_stage(reference, name, stage, 0).steps
    warmup = stage_schedule(reference, stage).warmup_steps or 0
    return f"{warmup} of {steps} steps ({warmup / steps:.1%})"


def _hash_contents(config: TrainConfig, data: Data | None) -> dict[str, str]:
    """Return hashes of tokenizer, data and batch order."""
    if data is None:
        settings = prepared_folder(config.data, config.tokenizer, Path()).name
        return dict.fromkeys(("tokenizer_hash", "data_hash", "data_order_hash"), f"{settings}, not prepared yet")
    training = config.training
    orders = {
        name: build_loader(data, stage, training.seq_len, 0, training.sampling).order_hash(data.fingerprint)
        for name, stage in config.stage.stages.items()
    }
    return {
        "tokenizer_hash": data.tokenizer_sha256,
        "data_hash": data.fingerprint,
        "data_order_hash": _join_items(orders),
    }


def last_process_count(folder: Path) -> int:
    """Return how many processes trained a run when it was last started."""
    summary = read_summary(folder)
    return summary["environment"].get("processes", 1) if summary else 1


def join_values(before: Any, now: Any) -> Any:
    """Join two different values, so that a resumed run is equal to neither."""
    text = str(before)
    return now if before == now else before if text.endswith(f"then {now}") else f"{text}, then {now}"


def _describe_budget(config: TrainConfig, name: str, stage: StageConfig, reference: ModelCost) -> str:
    """Describe corpus and budget of a stage in terms that are equal for every architecture."""
    training = config.training
    if training.budget == "time":
        assert training.max_seconds is not None
        return f"{_describe_corpora(stage)} {training.max_seconds * (stage.budget_share or 1):g} s"
    steps = plan_stage(_with_token_budget(config), name, stage, 0).steps
    tokens = steps * training.global_batch_size * training.seq_len
    flops = f"{tokens * reference.train_flops_per_token:.4g} FLOPs"
    if training.budget == "flops":
        return f"{_describe_corpora(stage)} {flops}, of dense {steps} steps and {tokens} tokens"
    return f"{_describe_corpora(stage)} {steps} steps and {tokens} tokens, of dense {flops}"


def _with_token_budget(config: TrainConfig) -> TrainConfig:
    """Return the settings of the dense reference: a budget of tokens."""
    return replace(config, training=replace(config.training, budget="tokens", measured_steps=None))


def _describe_corpora(stage: StageConfig) -> str:
    shares = " and ".join(f"{share} {corpus}" for corpus, share in stage.mixture.items())
    return f"{stage.corpus} with {shares} for" if shares else stage.corpus


def _join_items(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())


@cache
def _git_commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
