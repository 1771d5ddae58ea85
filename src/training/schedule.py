"""Learning rate against step, as a factor on the peak. Every schedule ends just where the stage does."""

import math
from collections.abc import Callable

from src.config.schema import ScheduleConfig


def _cosine(progress: float, config: ScheduleConfig) -> float:
    return config.min_ratio + (1 - config.min_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float, config: ScheduleConfig) -> float:
    return config.min_ratio + (1 - config.min_ratio) * (1 - progress)


def _wsd(progress: float, config: ScheduleConfig) -> float:
    left = min(1.0, (1 - progress) / config.decay_fraction)
    return config.min_ratio + (1 - config.min_ratio) * left


SCHEDULES: dict[str, Callable[[float, ScheduleConfig], float]] = {"cosine": _cosine, "linear": _linear, "wsd": _wsd}


LEAST_WARMUP = 100
"""Steps: attention that is warmed up for fewer ends well above what its learning rate allows (docs/RESULTS.md)."""


def warmup_steps(total: int, config: ScheduleConfig) -> int:
    """Return the steps of the warm-up of a stage: as given, or a twentieth, at least 100, at most a third of it."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return max(total // 20, min(LEAST_WARMUP, total // 3))


def learning_rate_factor(step: int, total: int, config: ScheduleConfig) -> float:
    """Return the factor for optimizer step `step`, counted from 0, of `total`."""
    warmup = warmup_steps(total, config)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return SCHEDULES[config.name](min(1.0, progress), config)
