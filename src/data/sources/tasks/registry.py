"""The tasks by name, and the check of their settings."""

from dataclasses import fields, replace

from src.config.schema import TaskConfig, UserError
from src.data.sources.tasks.associative_recall import ASSOCIATIVE_RECALL
from src.data.sources.tasks.compression import COMPRESSION
from src.data.sources.tasks.copying import COPYING, SELECTIVE_COPYING
from src.data.sources.tasks.fuzzy_recall import FUZZY_RECALL
from src.data.sources.tasks.in_context_recall import IN_CONTEXT_RECALL, NOISY_RECALL
from src.data.sources.tasks.induction import INDUCTION
from src.data.sources.tasks.memorization import MEMORIZATION
from src.data.sources.tasks.modular_arithmetic import MODULAR_ARITHMETIC
from src.data.sources.tasks.mqar import MQAR
from src.data.sources.tasks.parity import PARITY
from src.data.sources.tasks.task import Task, reject

REGISTRY: dict[str, Task] = {
    "mqar": MQAR,
    "associative_recall": ASSOCIATIVE_RECALL,
    "induction": INDUCTION,
    "copying": COPYING,
    "selective_copying": SELECTIVE_COPYING,
    "compression": COMPRESSION,
    "parity": PARITY,
    "modular_arithmetic": MODULAR_ARITHMETIC,
    "in_context_recall": IN_CONTEXT_RECALL,
    "noisy_recall": NOISY_RECALL,
    "fuzzy_recall": FUZZY_RECALL,
    "memorization": MEMORIZATION,
}

COMMON = ("name", "vocab_size", "examples", "test_lengths")
"""Settings that every task reads."""


def check_task(config: TaskConfig, seq_len: int) -> None:
    """Check the settings of a task for training sequences of length `seq_len`. Raises: UserError."""
    task = REGISTRY[config.name]
    test = (f"test_{task.difficulty}",) if task.difficulty else ()
    for item in fields(config):
        if item.name not in (*COMMON, *task.settings, *test) and getattr(config, item.name) not in (
            None,
            [],
            item.default,
        ):
            raise reject(
                item.name, getattr(config, item.name), f"data.task.name={config.name} does not read it; leave it out"
            )
    for name in task.required:
        if getattr(config, name) is None:
            raise reject(name, None, f"data.task.name={config.name} needs a number")
    if config.vocab_size < task.min_vocab_size:
        raise reject("vocab_size", config.vocab_size, f"{config.name} needs at least {task.min_vocab_size}")
    if config.min_length is not None and config.min_length > seq_len:
        raise reject("min_length", config.min_length, f"above training.seq_len={seq_len}; give less")
    for length in (config.min_length or seq_len, seq_len):
        task.check(config, length)
    values = getattr(config, f"test_{task.difficulty}") if task.difficulty else []
    for length in config.test_lengths or [seq_len]:
        at_length = [replace(config, **{str(task.difficulty): value}) for value in values] or [config]
        if not any(fits(each, length) for each in at_length):
            task.check(at_length[0], length)


def fits(config: TaskConfig, length: int) -> bool:
    """Return whether the difficulty of a task fits into sequences of a length."""
    try:
        REGISTRY[config.name].check(config, length)
    except UserError:
        return False
    return True
