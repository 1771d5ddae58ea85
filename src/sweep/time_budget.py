"""Choose the budget in tokens with which a whole sweep takes a given time on this machine.

A subprocess trains a few steps of each model, with the imports and settings of a job. From its times follow the time of
a job and, solved for the tokens, the budget. The choice is stored, because the name of a run depends on it: a repeated
command has to find its runs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypedDict

from src.config.schema import TrainConfig
from src.model.size_matching import match_config
from src.runtime.records import read_record, write_record
from src.training.stage_budget import stage_tokens, trained_budgets

STEPS = 6
"""Steps that are timed for each model, after one that allocates memory."""
STARTS_PER_JOB = 3
"""Time of a job without its training and validation, in starts of a process: the start itself, samples, checkpoints."""
FORWARD_SHARE = 1 / 3
"""Time of a token that is only evaluated, relative to one that is trained on."""
VALIDATIONS = 11
"""Validations of a stage: one before the first step, and one every tenth of its steps."""
SHARE_OF_TIME = 0.8
"""Share of the given time that is planned; speed varies with what else the machine does."""
FEWEST_STEPS = 32
"""Steps of a stage at least; with fewer, hardly anything is learned."""


class Budget(TypedDict):
    """The chosen budget, and the measurement that it follows from."""

    minutes: float
    max_tokens: int
    predicted_s: float
    start_s: float
    """From the start of a process to the end of its first training step."""
    seconds_per_token: dict[str, float]
    """By architecture."""


@dataclass(frozen=True)
class Speed:
    """The time of each part of a job on this machine."""

    start_s: float
    seconds_per_token: dict[str, float]


def load_or_choose(configs: Sequence[TrainConfig], minutes: float, file: Path, keep: bool = True) -> Budget:
    """Return the budget of an earlier call from `file`, or measure, choose and, with `keep`, write it."""
    if file.exists():
        return read_record(file, Budget, "remove the file")
    budget = choose_budget(configs, minutes, measure_speed(configs))
    if keep:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_record(file, budget)
    return budget


def choose_budget(configs: Sequence[TrainConfig], minutes: float, speed: Speed) -> Budget:
    """Return the largest `training.max_tokens`, up to that of the settings, with which all jobs fit into the time.

    configs: one for each job. At least FEWEST_STEPS a stage are chosen, whatever time they take.
    """
    first = configs[0].training
    per_step = first.global_batch_size * first.seq_len
    fixed = sum(_fixed_s(config, speed) for config in configs)
    per_token = sum(_trained_share(config) * speed.seconds_per_token[config.architecture.name] for config in configs)
    fitting = (60 * minutes * SHARE_OF_TIME - fixed) / per_token
    max_tokens = max(FEWEST_STEPS, int(min(fitting, first.max_tokens) / per_step)) * per_step
    return {
        "minutes": minutes,
        "max_tokens": max_tokens,
        "predicted_s": fixed + per_token * max_tokens,
        "start_s": speed.start_s,
        "seconds_per_token": speed.seconds_per_token,
    }


def _trained_share(config: TrainConfig) -> float:
    """Return how many tokens a job trains on for each token of `training.max_tokens`."""
    return sum(stage_tokens(config).values()) / config.training.max_tokens


def _fixed_s(config: TrainConfig, speed: Speed) -> float:
    """Return the time of a job that does not depend on its budget."""
    training, n_stages = config.training, trained_budgets(config)
    evaluated = training.seq_len * (VALIDATIONS * training.eval_sequences + 2 * training.test_sequences) * n_stages
    return (
        STARTS_PER_JOB * speed.start_s + FORWARD_SHARE * evaluated * speed.seconds_per_token[config.architecture.name]
    )


def measure_speed(configs: Sequence[TrainConfig]) -> Speed:
    """Time some training steps of each architecture, in a new process."""
    from src.runtime.subprocess_pool import run_in_subprocess

    by_name = {config.architecture.name: config for config in configs}
    started = time.time()
    first_step, seconds = run_in_subprocess(_Measurement(list(by_name.values())))
    return Speed(first_step - started, dict(zip(by_name, seconds, strict=True)))


@dataclass(frozen=True)
class _Measurement:
    """What the subprocess does."""

    configs: list[TrainConfig]

    def __call__(self) -> tuple[float, list[float]]:
        """Return when the first step ended, on the clock of the machine, and the seconds per token of each model."""
        first_step, seconds = 0.0, []
        for config in self.configs:
            times = _time_steps(config)
            first_step = first_step or times[0]
            per_step = config.training.global_batch_size * config.training.seq_len
            seconds.append(median(b - a for a, b in pairwise(times)) / per_step)
        return first_step, seconds


def _time_steps(config: TrainConfig) -> list[float]:
    """Return the times at the ends of training steps."""
    from src.runtime.device import open_device
    from src.training.trial_step import build_train_state, random_step

    training, device = config.training, open_device(config.runtime)
    state = build_train_state(match_config(config).spec, config.optimizer, device, memory=training.memory)
    times: list[float] = []
    for _ in range(STEPS + 1):
        random_step(
            state,
            device,
            seq_len=training.seq_len,
            micro_batch_size=min(training.micro_batch, training.global_batch_size),
            accumulate=False,
            document_masking=training.document_masking,
            dropout=training.dropout,
        )
        device.synchronize()
        times.append(time.time())
    return times
