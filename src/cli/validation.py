"""Checks that concern several settings, files or the machine, before anything is allocated or written. No torch.

Rules for a single setting are declared with its field in `src.config.schema`; `check_settings` checks them.
"""

import importlib.util
import os
from pathlib import Path

from src.cli.data_validation import check_data
from src.cli.launcher_validation import check_launcher
from src.cli.model_validation import check_model
from src.config.checks import check_name, check_settings
from src.config.schema import (
    BF16_WEIGHTS,
    INT8_MOMENTS,
    TASK,
    RuntimeConfig,
    StageConfig,
    TrainConfig,
    UserError,
)
from src.config.schema.runtime import FLA_EXTRA
from src.data.sources.tasks.registry import check_task
from src.model.cost.memory_estimate import divisors
from src.model.size_matching import match_config
from src.runtime.host import nearest_folder, planned_ranks
from src.training.stage_budget import plan_stage

EXTRAS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray": "ray",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "mlflow": "mlflow",
}
"""Launchers and trackers that are not installed by default, and the module that each needs."""


def validate(config: TrainConfig) -> None:
    """Check a whole training configuration. Raises UserError, one line with key, value and remedy."""
    check_settings(config)
    check_data(config.data, config.tokenizer)
    if config.data.is_task:
        _check_task(config)
    check_writable(config.output_root)
    check_launcher(config)
    _check_batches(config)
    check_model(config)
    _check_stages(config)
    _check_samples(config)
    if len(config.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in config.optimizer.betas):
        raise UserError(f"optimizer.betas={config.optimizer.betas}: needs two numbers from 0 up to, not including, 1")
    for key, name in [("launcher", config.launcher.name), *(("tracking", name) for name in config.tracking.trackers)]:
        if module := EXTRAS.get(name):
            check_installed(f"{key}={name}", module, name)
    if config.runtime.attention == "flex" and config.runtime.compile:
        raise UserError("runtime.attention=flex: not with runtime.compile=true; use runtime.attention=auto")
    if config.runtime.kernels == "fla":
        _check_fla(config.runtime)
    match_config(config)


def _check_fla(runtime: RuntimeConfig) -> None:
    """Check that `runtime.kernels=fla` is possible with the other settings. Raises UserError."""
    check_installed("runtime.kernels=fla", "fla", FLA_EXTRA)
    # Its kernels end a graph, and choose block sizes, and so the order of sums, by measuring.
    for key, is_set in (("compile", runtime.compile), ("deterministic", runtime.deterministic)):
        if is_set:
            raise UserError(f"runtime.kernels=fla: not with runtime.{key}=true; use runtime.kernels=auto")


def _check_task(config: TrainConfig) -> None:
    """Check the settings of a synthetic task, and those that need text. Raises UserError."""
    check_task(config.data.task, config.training.seq_len)
    if config.tokenizer.vocab_size != config.data.task.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size={config.tokenizer.vocab_size}: data.task.vocab_size={config.data.task.vocab_size} "
            "says it; leave it out"
        )
    text = {
        "data.dir": config.data.dir is not None,
        "training.document_masking": config.training.document_masking,
        "training.sampling": config.training.sampling != "epochs",
    }
    for name, stage in ((name, stage) for name, stage in config.stage.stages.items() if stage.corpus == TASK):
        text |= {f"stage.stages.{name}.prompts": stage.prompts, f"stage.stages.{name}.mixture": stage.mixture}
    if given := next((key for key, is_given in text.items() if is_given), None):
        raise UserError(f"{given}: is for text, and data={config.data.name} is a task; leave it out")
    longest = max([config.training.seq_len, *config.data.task.test_lengths])
    if config.recipe.position == "learned" and longest > config.recipe.max_seq_len:
        raise UserError(
            f"data.task.test_lengths={config.data.task.test_lengths}: beyond the {config.recipe.max_seq_len} learned "
            f"positions; set recipe.max_seq_len={longest} or recipe.position=rope"
        )


def check_writable(output_root: str) -> None:
    """Check that a folder is writable or can be created. Raises UserError."""
    root = Path(output_root).expanduser().absolute()
    nearest = nearest_folder(root)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"output_root={output_root}: {nearest} is no folder that you can write to; give another")


def check_installed(setting: str, module: str, extra: str) -> None:
    """Check that a module that a setting needs is installed; `extra` installs it. Raises UserError."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{setting}: not installed; pip install -c constraints.txt -e '.[{extra}]'")


def _check_stages(config: TrainConfig) -> None:
    if not config.stage.stages:
        raise UserError("stage.stages: empty; name at least one stage, as conf/stage/language.yaml does")
    for name, stage in config.stage.stages.items():
        key = f"stage.stages.{name}"
        check_name(key, name)
        _check_mixture(key, stage)
        _check_branch(config, name, stage)
    for name, stage in config.stage.stages.items():
        steps, warmup = plan_stage(config, name, stage, 0).steps, config.schedule.warmup_steps or 0
        if warmup >= steps > 1:
            raise UserError(
                f"schedule.warmup_steps={warmup}: stage {name} has {steps} steps, so its rate would never come down; "
                f"for example {steps // 20}"
            )


def _check_branch(config: TrainConfig, name: str, stage: StageConfig) -> None:
    """Check the settings of a stage that is a branch. Raises UserError."""
    key, share = f"stage.stages.{name}", stage.budget_share
    if (stage.branch_of is None) != (share is None):
        raise UserError(
            f"{key}.branch_of={stage.branch_of}, {key}.budget_share={share}: a branch needs both; give both or neither"
        )
    names = list(config.stage.stages)
    if stage.branch_of is None or share is None:
        branches = [other for other in names[: names.index(name)] if config.stage.stages[other].branch_of is not None]
        if branches:
            raise UserError(
                f"{key}: comes after {branches[0]}, a branch, and would start from its weights; put branches last"
            )
        return
    origin = config.stage.stages.get(stage.branch_of)
    if origin is None or origin.branch_of is not None or stage.branch_of not in names[: names.index(name)]:
        whole = ", ".join(other for other in names if config.stage.stages[other].branch_of is None) or "none"
        raise UserError(f"{key}.branch_of={stage.branch_of}: must be an earlier stage that is no branch, of {whole}")
    for item in ("corpus", "mixture", "learning_rate_scale"):
        own, wanted = getattr(stage, item), getattr(origin, item)
        if own != wanted:
            raise UserError(f"{key}.{item}={own}: a branch of {stage.branch_of} shares its steps; give {wanted}")
    if config.schedule.name != "wsd":
        raise UserError(
            f"schedule.name={config.schedule.name}: has no stable phase for the branch {name}; give schedule=wsd, or a "
            "stage without branches"
        )
    if config.schedule.min_ratio == 1:
        raise UserError(f"schedule.min_ratio=1: the branch {name} begins with the decay; give less, or no branches")
    if share >= 1:
        raise UserError(f"{key}.budget_share={share}: must be below 1, the budget of {stage.branch_of}")
    if stage.max_tokens is not None:
        raise UserError(f"{key}.max_tokens={stage.max_tokens}: {key}.budget_share={share} says it; leave it out")


def _check_mixture(key: str, stage: StageConfig) -> None:
    for corpus, share in stage.mixture.items():
        if corpus not in ("language", "code"):
            raise UserError(f"{key}.mixture.{corpus}={share}: no such corpus; there are language and code")
        if corpus == stage.corpus:
            raise UserError(
                f"{key}.mixture.{corpus}={share}: is the stage's own corpus, which has the rest; leave it out"
            )
    if not sum(stage.mixture.values()) < 1:
        raise UserError(
            f"{key}.mixture={stage.mixture}: must add up to less than 1, so that {stage.corpus} has the rest"
        )


def _check_batches(config: TrainConfig) -> None:
    training = config.training
    if training.measured_steps is not None:
        raise UserError(f"training.measured_steps={training.measured_steps}: is measured by the run; leave it out")
    if (training.budget == "time") != (training.max_seconds is not None):
        raise UserError(
            f"training.budget={training.budget}, training.max_seconds={training.max_seconds}: training.budget=time "
            "needs max_seconds, and nothing else uses it"
        )
    if training.embedding_dropout and training.dropout:
        raise UserError(
            f"training.embedding_dropout={training.embedding_dropout}: training.dropout={training.dropout} is of the "
            "embedding too; leave one out"
        )
    if training.stop_accuracy is not None and not config.data.is_task:
        raise UserError(f"training.stop_accuracy={training.stop_accuracy}: text has no accuracy; leave it out")
    if training.memory != "full" and config.optimizer.name != "adamw":
        raise UserError(f"training.memory={training.memory}: is for optimizer=adamw; set training.memory=full")
    if training.memory in BF16_WEIGHTS and config.runtime.precision == "fp16":
        raise UserError(
            f"training.memory={training.memory}: its weights are bf16, which runtime.precision=fp16 would round "
            "further; set runtime.precision=fp32 or bf16"
        )
    micro = training.micro_batch_size
    size = 1 if isinstance(micro, str) else micro
    if training.global_batch_size % size:
        near = max(n for n in divisors(training.global_batch_size) if n <= size)
        raise UserError(
            f"training.micro_batch_size={micro}: must divide training.global_batch_size="
            f"{training.global_batch_size}; for example {near}"
        )
    processes = planned_ranks(config.launcher).size
    if processes > 1 and training.memory in BF16_WEIGHTS:
        raise UserError(
            f"training.memory={training.memory}: is for a single process; with several, leave it out, and set "
            "runtime.parallel=shard to divide weights and optimizer state among the processes"
        )
    if processes > 1 and training.memory in INT8_MOMENTS and config.runtime.parallel == "shard":
        raise UserError(
            f"runtime.parallel=shard: does not divide the moments of training.memory={training.memory}; set "
            "training.memory=full, or runtime.parallel=replicate"
        )
    at_once = processes * size
    if training.global_batch_size % at_once:
        raise UserError(
            f"training.global_batch_size={training.global_batch_size}: must be a multiple of the {processes} processes "
            f"of torchrun times training.micro_batch_size={micro}; for example "
            f"{max(1, training.global_batch_size // at_once) * at_once}"
        )
    if config.recipe.position == "learned" and training.seq_len > config.recipe.max_seq_len:
        raise UserError(
            f"training.seq_len={training.seq_len}: beyond the {config.recipe.max_seq_len} learned positions; "
            f"set recipe.max_seq_len={training.seq_len} or recipe.position=rope"
        )


def _check_samples(config: TrainConfig) -> None:
    if config.recipe.position != "learned":
        return
    for stage in config.stage.stages.values():
        for prompt in stage.prompts:
            longest = 1 + len(prompt.encode()) + config.samples.max_new_tokens  # a token is at least a byte
            if longest > config.recipe.max_seq_len:
                raise UserError(
                    f"samples.max_new_tokens={config.samples.max_new_tokens}: with its prompt beyond the "
                    f"{config.recipe.max_seq_len} learned positions; make it smaller or set recipe.position=rope"
                )
