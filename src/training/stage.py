"""A stage's budget, turned into optimizer steps."""

from dataclasses import dataclass

from src.config import StageConfig, TrainConfig
from src.model.matching import tokens_at_equal_flops


@dataclass(frozen=True)
class StagePlan:
    """What one stage sets out to do."""

    name: str
    steps: int
    learning_rate: float
    eval_every: int
    checkpoint_every: int
    flops_per_token: float


def plan_stage(config: TrainConfig, name: str, stage: StageConfig, flops_per_token: float) -> StagePlan:
    """Turn a stage's budget into optimizer steps, and its rhythm from there."""
    training = config.training
    per_step = training.global_batch_size * training.seq_len
    tokens = stage.max_tokens or training.max_tokens
    tokens = min(tokens, per_step * (training.max_steps or tokens))
    if training.budget == "flops":
        tokens = tokens_at_equal_flops(config, tokens)
    steps = training.measured_steps or max(1, tokens // per_step)
    tenth = max(1, steps // 10)
    return StagePlan(
        name=name,
        steps=steps,
        learning_rate=config.optimizer.learning_rate * stage.learning_rate_scale,
        eval_every=training.eval_every or tenth,
        checkpoint_every=training.checkpoint_every or tenth,
        flops_per_token=flops_per_token,
    )


def stage_tokens(config: TrainConfig) -> dict[str, int]:
    """Return how many tokens each stage trains on."""
    per_step = config.training.global_batch_size * config.training.seq_len
    return {name: per_step * plan_stage(config, name, stage, 0).steps for name, stage in config.stage.stages.items()}
