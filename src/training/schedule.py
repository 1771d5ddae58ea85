"""Learning rate schedules, as a factor of the peak. Every schedule ends with the last step of the stage.

With `update_every`, the rate is constant over so many steps, and the next value would be the last.
"""

import math
from collections.abc import Callable

from src.config.schema import ScheduleConfig


def _cosine(progress: float, config: ScheduleConfig) -> float:
    return config.min_ratio + (1 - config.min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float, config: ScheduleConfig) -> float:
    return config.min_ratio + (1 - config.min_ratio) * (1 - progress)


def _wsd(progress: float, config: ScheduleConfig) -> float:
    remaining = min(1.0, (1 - progress) / config.decay_fraction)
    return config.min_ratio + (1 - config.min_ratio) * remaining


SCHEDULES: dict[str, Callable[[float, ScheduleConfig], float]] = {"cosine": _cosine, "linear": _linear, "wsd": _wsd}


MIN_WARMUP_STEPS = 100
"""With a shorter warm-up, attention ends with a clearly higher loss at the same learning rate (docs/RESULTS.md)."""


def warmup_steps(total: int, config: ScheduleConfig) -> int:
    """Return the warm-up steps of a stage: as configured, or a twentieth, at least 100, at most a third of it."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return max(total // 20, min(MIN_WARMUP_STEPS, total // 3))


def learning_rate_factor(step: int, total: int, config: ScheduleConfig) -> float:
    """Return the factor for optimizer step `step`, counted from 0, of `total`."""
    warmup = warmup_steps(total, config)
    if step < warmup:
        return (step + 1) / warmup
    if config.update_every > 1:  # as torch's schedules that are stepped once an epoch: the last epoch is not at the end
        step = warmup + (step - warmup) // config.update_every * config.update_every
        return SCHEDULES[config.name](min(1.0, (step - warmup) / max(1, total - warmup)), config)
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return SCHEDULES[config.name](min(1.0, progress), config)
