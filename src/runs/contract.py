"""The contract of a run: the settings, data and versions that have to be equal for two runs to be ranked."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config.comparability import EACH_SEED, SEARCHED, SPEED_KEYS, Scalar, settings_of
from src.config.renamed import earlier_key
from src.config.schema import ROOT, StageConfig, TrainConfig
from src.data.dataset import Data, PreparedData, hashed_settings, prepared_folder
from src.data.loader import build_loader
from src.model.cost.model_cost import ModelCost, model_cost
from src.model.size_matching import reference_spec
from src.runs.summary import read_summary
from src.runtime.records import content_sha256
from src.training.stage_budget import plan_stage, stage_schedule

if TYPE_CHECKING:
    from src.runtime.device import Device
    from src.training.checkpoint import CheckpointInfo


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
        "data_draws": _describe_draws(config, data),
        **_hash_contents(config, data),
    }
    if config.training.budget != "time" and not config.schedule.searched:
        rules["warmup"] = _join_items({name: _describe_warmup(config, name, stage) for name, stage in stages.items()})
    if init is not None:
        rules["init_from"] = _describe_lineage(init)
    return rules


def reference_params(contract: Mapping[str, Scalar]) -> float | None:
    """Return the active parameters of the reference that a contract names; None if it names none."""
    found = re.match(r"(\d+) active parameters", str(contract.get("reference")))
    return float(found[1]) if found else None


def _describe_lineage(info: "CheckpointInfo") -> str:
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


def _describe_draws(config: TrainConfig, data: Data | None) -> str:
    """Describe what all draws of the text have in common: the settings without the seed."""
    if config.data_draws != EACH_SEED:
        return config.data_draws
    if isinstance(data, PreparedData):
        settings = data.manifest["settings"]
    elif config.data.is_task:
        settings = {"data": asdict(config.data.task)}
    else:
        settings = hashed_settings(config.data, config.tokenizer)
    text = {key: value for key, value in settings["data"].items() if key != "seed"}
    return f"{EACH_SEED} of {content_sha256({**settings, 'data': text})[:12]}"


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
