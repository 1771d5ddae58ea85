"""Convert the budget of a stage to optimizer steps.

A branch is a stage that gives the result of a smaller budget. With a stable phase in the schedule (warm-up, stable,
decay; Hu et al., 2024, arXiv 2404.06395; Hägele et al., 2024, arXiv 2405.18392) runs of different budgets are identical
until the decay of the shorter one begins. There a branch starts from a checkpoint of the longer run, its origin.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from src.config.schema import ScheduleConfig, StageConfig, TrainConfig, UserError
from src.model.cost.model_cost import model_cost
from src.model.size_matching import reference_spec, tokens_at_equal_flops
from src.training.progress import Progress
from src.training.schedule import learning_rate_factor, warmup_steps


@dataclass(frozen=True)
class StagePlan:
    """The steps and intervals of one stage."""

    name: str
    steps: int
    learning_rate: float
    eval_every: int
    checkpoint_every: int
    flops_per_token: float
    first_step: int = 0
    """Steps of the origin before a branch begins; 0 for every other stage."""
    branches: Mapping[str, int] = field(default_factory=dict[str, int])
    """The branches of this stage, and the step after which each begins."""
    branch_of: str | None = None
    stop_accuracy: float | None = None
    """The accuracy of validation above which the stage ends."""
    recount_every: int | None = None
    """Steps after which the steps that fit into the time of the stage are counted again, until its rate decays."""
    decay_fraction: float = 0.0

    def is_finished(self, progress: Progress) -> bool:
        """Whether the stage has had all its steps, or a validation after its first step was above `stop_accuracy`."""
        is_validated = progress.step > self.first_step and progress.step % self.eval_every == 0
        is_reached = self.stop_accuracy is not None and (progress.val_accuracy or 0) > self.stop_accuracy
        return progress.step >= self.steps or (is_validated and is_reached)

    def is_recount_due(self, progress: Progress) -> bool:
        """Whether the stage has come to a step after which its steps are counted again."""
        is_stable = 0 < progress.step <= (1 - self.decay_fraction) * self.steps
        return self.recount_every is not None and is_stable and progress.step % self.recount_every == 0

    @property
    def origin(self) -> str:
        """The stage whose random numbers are used: for a branch, the one that it branches from."""
        return self.branch_of or self.name


def plan_stage(config: TrainConfig, name: str, stage: StageConfig, flops_per_token: float) -> StagePlan:
    """Convert the budget of a stage to optimizer steps and intervals.

    Raises: UserError if the budget of a branch leaves no step for the decay of its learning rate.
    """
    training = config.training
    steps, first = _count_steps(config, stage), _first_step(config, name, stage)
    tenth = max(1, (steps - first) // 10)
    branches = {
        other: _first_step(config, other, branch)
        for other, branch in config.stage.stages.items()
        if branch.branch_of == name
    }
    is_recounted = training.budget == "time" and not branches and stage.branch_of is None
    return StagePlan(
        name=name,
        steps=steps,
        learning_rate=config.optimizer.learning_rate * stage.learning_rate_scale,
        eval_every=training.eval_every or tenth,
        checkpoint_every=training.checkpoint_every or tenth,
        flops_per_token=flops_per_token,
        first_step=first,
        branches=branches,
        branch_of=stage.branch_of,
        stop_accuracy=training.stop_accuracy,
        recount_every=tenth if is_recounted else None,
        decay_fraction=config.schedule.decay_fraction,
    )


def steps_in_time(progress: Progress, max_seconds: float, decay_fraction: float) -> int:
    """Return how many steps a stage has that is to train for `max_seconds`, at the mean speed of its steps so far.

    At least so many that `decay_fraction` of them are still to come, so that its learning rate can fall.
    """
    least = math.ceil(progress.step / (1 - decay_fraction))
    return max(int(max_seconds * progress.step / progress.train_time_s), least)


def stage_schedule(config: TrainConfig, stage: StageConfig) -> ScheduleConfig:
    """Return the schedule of a stage with its warm-up in steps.

    A stage and its branches share one warm-up: by default that of the smallest of their budgets.
    """
    stages = config.stage.stages
    origin = stage if stage.branch_of is None else stages[stage.branch_of]
    branches = [other for other in stages.values() if other.branch_of and stages[other.branch_of] is origin]
    least = min(_count_steps(config, each) for each in (origin, *branches))
    return replace(config.schedule, warmup_steps=warmup_steps(least, config.schedule))


def stage_tokens(config: TrainConfig) -> dict[str, int]:
    """Return how many tokens each stage trains on; for a branch, those after its first step."""
    plans = _plan_stages(config)
    return {name: _tokens_per_step(config) * (plan.steps - plan.first_step) for name, plan in plans.items()}


def shared_tokens(config: TrainConfig) -> dict[str, int]:
    """Return how many tokens of each stage's budget its origin has trained on: 0 except for branches."""
    return {name: _tokens_per_step(config) * plan.first_step for name, plan in _plan_stages(config).items()}


def trained_budgets(config: TrainConfig) -> float:
    """Return how many whole budgets a run trains: 1 per stage, less for a branch."""
    total = 0.0
    for name, plan in _plan_stages(config).items():
        origin = config.stage.stages[name].branch_of
        whole = plan.steps if origin is None else _whole_steps(config, config.stage.stages[origin])
        total += (plan.steps - plan.first_step) / whole
    return total


def _plan_stages(config: TrainConfig) -> dict[str, StagePlan]:
    return {name: plan_stage(config, name, stage, 0) for name, stage in config.stage.stages.items()}


def _tokens_per_step(config: TrainConfig) -> int:
    return config.training.global_batch_size * config.training.seq_len


def _whole_steps(config: TrainConfig, stage: StageConfig) -> int:
    """Return the steps of a stage that is not a branch."""
    training, per_step = config.training, _tokens_per_step(config)
    tokens = stage.max_tokens or _budget_tokens(config)
    tokens = min(tokens, per_step * (training.max_steps or tokens))
    if training.budget == "flops":
        tokens = tokens_at_equal_flops(config, tokens)
    return training.measured_steps or max(1, tokens // per_step)


def _budget_tokens(config: TrainConfig) -> int:
    training = config.training
    if training.tokens_per_parameter is None:
        return training.max_tokens
    params = model_cost(reference_spec(config), training.seq_len).active_non_embedding_params
    return max(1, round(training.tokens_per_parameter * params))


def _count_steps(config: TrainConfig, stage: StageConfig) -> int:
    """Return the last step of a stage; for a branch it includes the steps of its origin."""
    if stage.branch_of is None or stage.budget_share is None:
        return _whole_steps(config, stage)
    return max(1, round(stage.budget_share * _whole_steps(config, config.stage.stages[stage.branch_of])))


def _first_step(config: TrainConfig, name: str, stage: StageConfig) -> int:
    """Return the first step of a branch with a learning rate below the peak. Raises: UserError if there is none."""
    if stage.branch_of is None:
        return 0
    steps, schedule = _count_steps(config, stage), stage_schedule(config, stage)
    warmup, whole = schedule.warmup_steps or 0, _whole_steps(config, config.stage.stages[stage.branch_of])

    def decays(step: int) -> bool:
        return learning_rate_factor(step, steps, schedule) < 1

    first = bisect_left(range(steps), True, lo=min(warmup, steps), key=decays)
    if first >= steps or steps >= whole:
        raise UserError(
            f"stage.stages.{name}.budget_share={stage.budget_share}: is {steps} of the {whole} steps of stage "
            f"{stage.branch_of}; a branch needs the {warmup} steps of warm-up, one at the peak and one of decay at "
            "least, and fewer than all; choose another share or a larger budget"
        )
    return first
