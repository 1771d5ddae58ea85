"""The least and the most of every number among the settings, and what a text must be to serve as a path or a name.

The upper limits are far above what anyone trains with, and below what would hang the program, overflow a number of a
library or allocate all memory at once. One table serves all commands: a key means the same in each.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from src.config.schema import UserError


class Limit(NamedTuple):
    """A range of numbers, both ends included unless `above` says that the least is not."""

    least: float
    most: float
    above: bool = False


SEED = Limit(0, 2**53 - 1)
"""What JSON, torch and NumPy all hold exactly, with room for the few seeds that follow one."""
WIDTH = Limit(1, 2**20)
TOKENS = Limit(1, 10**15)
STEPS = Limit(1, 10**12)
LENGTH = Limit(1, 2**24)
BYTES = Limit(1, 10**15)
SHARE = Limit(0, 1)
POSITIVE_SHARE = Limit(0, 1, above=True)
FACTOR = Limit(0, 10**6, above=True)
RATE = Limit(0, 1e30, above=True)
WEIGHT = Limit(0, 10**6)
THREADS = Limit(1, 512)
SECONDS = Limit(0, 10**9, above=True)

LIMITS: dict[str, Limit] = {
    "architecture.n_blocks": Limit(1, 4096),
    "architecture.d_ff": WIDTH,
    "architecture.window": LENGTH,
    "architecture.n_experts": Limit(1, 4096),
    "architecture.top_k": Limit(1, 4096),
    "architecture.expert_d_ff": WIDTH,
    "architecture.aux_loss_weight": WEIGHT,
    "architecture.router_z_loss_weight": WEIGHT,
    "architecture.router_bias_rate": WEIGHT,
    "architecture.d_state": Limit(1, 2**16),
    "architecture.d_conv": Limit(1, 1024),
    "architecture.expand": Limit(1, 1024),
    "architecture.d_inner": WIDTH,
    "architecture.chunk_size": Limit(1, 2**16),
    "size.d_model": Limit(1, 2**17),
    "size.n_layers": Limit(1, 1024),
    "size.head_dim": Limit(1, 2**17),
    "size.d_ff": WIDTH,
    "size.seq_len": LENGTH,
    "size.global_batch_size": WIDTH,
    "size.micro_batch_size": WIDTH,
    "size.max_tokens": TOKENS,
    "size.learning_rate": RATE,
    "recipe.max_seq_len": LENGTH,
    "stage.stages.*.max_tokens": TOKENS,
    "stage.stages.*.learning_rate_scale": FACTOR,
    "stage.stages.*.mix.*": POSITIVE_SHARE,
    "stage.stages.*.budget_share": POSITIVE_SHARE,
    "data.seed": SEED,
    "data.val_fraction": SHARE,
    "data.test_fraction": SHARE,
    **{
        f"data.{corpus}.{key}": limit
        for corpus in ("language", "code")
        for key, limit in {
            "max_bytes": BYTES,
            "max_tokens": TOKENS,
            "max_documents_per_group": TOKENS,
            "file_bytes.*": BYTES,
            "hygiene.max_document_bytes": BYTES,
            "hygiene.max_line_length": BYTES,
            "hygiene.max_mean_line_length": BYTES,
            "hygiene.min_alphanumeric_share": SHARE,
        }.items()
    },
    "tokenizer.vocab_size": Limit(2, 2**20),  # of a bpe more: src/cli/validation.py
    "tokenizer.code_share": SHARE,
    "optimizer.learning_rate": RATE,
    "optimizer.betas": SHARE,
    "optimizer.eps": FACTOR,
    "optimizer.momentum": SHARE,
    "optimizer.weight_decay": WEIGHT,
    "optimizer.grad_clip": Limit(0, 10**12),
    "schedule.warmup_steps": Limit(0, 10**12),
    "schedule.min_ratio": SHARE,
    "schedule.decay_fraction": POSITIVE_SHARE,
    "runtime.threads": THREADS,
    "launcher.jobs_at_once": Limit(1, 1024),
    "launcher.cpus_per_job": THREADS,
    "sweep.timeout": SECONDS,
    "sweep.retries": Limit(0, 1000),
    "training.seq_len": LENGTH,
    "training.global_batch_size": WIDTH,
    "training.micro_batch_size": WIDTH,
    "training.max_tokens": TOKENS,
    "training.max_seconds": SECONDS,
    "training.measured_steps": STEPS,
    "training.max_steps": STEPS,
    "training.dropout": SHARE,
    "training.log_every": STEPS,
    "training.eval_every": STEPS,
    "training.eval_sequences": Limit(1, 10**7),
    "training.test_sequences": Limit(1, 10**7),
    "training.checkpoint_every": STEPS,
    "training.max_bad_steps": STEPS,
    "samples.max_new_tokens": Limit(1, 10**6),
    "samples.temperature": WEIGHT,
    "samples.top_k": Limit(0, 10**9),
    "samples.seed": SEED,
    "evaluation.context_factor": Limit(1, 1024),
    "evaluation.probe_sequences": Limit(1, 4096),
    "evaluation.scripts": Limit(0, 4096),
    "evaluation.script_tokens": Limit(1, 10**6),
    "verdict.margin": Limit(0, 1000, above=True),
    "seed": SEED,
    "data_order_seed": SEED,
    "documents": Limit(0, 10**6),
    "max_new_tokens": Limit(1, 10**9),
    "temperature": WEIGHT,
    "top_k": Limit(0, 10**9),
    "threads": THREADS,
    "tokens_per_second": Limit(0, 10**12, above=True),
    "context_lens": LENGTH,
    "batch_size": Limit(1, 2**16),
    "point_seconds": SECONDS,
    "tune.trials": Limit(3, 100),
    "tune.factor": Limit(1, 1e30, above=True),
    "tune.extensions": Limit(0, 20),
    "tune.seeds": SEED,
    "tune.warmup": Limit(0, 10**12),
}

PATHS = (
    "init_from output_root learning_rates data.dir data.language.paths data.code.paths data.language.repositories "
    "data.code.repositories tokenizer.path tokenizer.compare run prompt_file data_dir dir keep against source out "
    "measured"
).split()
NAMES = "architecture.name size.name recipe.name stage.name data.name tokenizer.name sweep_name".split()
"""What becomes a part of a folder's name."""
MAX_PATH_BYTES, MAX_PART_BYTES, MAX_NAME_BYTES = 1000, 255, 64
"""What file systems take of a path (less what is written below it) and of each part; three names make one part."""


def check_settings(config: object) -> None:
    """Check each number, path and name of a command's configuration. Raises UserError."""
    for key, general, value in settings_of(config):
        if isinstance(value, int | float) and not isinstance(value, bool) and general in LIMITS:
            check_number(key, value, LIMITS[general])
        elif isinstance(value, str) and general in PATHS:
            check_path(key, value)
        elif isinstance(value, str) and general in NAMES:
            check_name(f"{key}={value}", value)


def settings_of(config: object, key: str = "", general: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield every single value with its key, and with the key that the tables have (`*` for a name of the user's)."""
    if is_dataclass(config):
        for item in fields(config):
            yield from settings_of(getattr(config, item.name), f"{key}.{item.name}", f"{general}.{item.name}")
    elif isinstance(config, dict):
        for name, value in config.items():
            yield from settings_of(value, f"{key}.{name}", f"{general}.*")
    elif isinstance(config, list):
        for value in config:
            yield from settings_of(value, key, general)
    else:
        yield key[1:], general[1:], config


def check_number(key: str, value: float, limit: Limit) -> None:
    """Check that a number is within its limits. Raises UserError."""
    least, most, above = limit
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value}: must be a finite number")
    if value < least or (above and value == least):
        if above or least == 1:
            raise UserError(f"{key}={shorten(value)}: must be greater than {0 if least == 1 and not above else least}")
        raise UserError(f"{key}={shorten(value)}: must {'not be negative' if least == 0 else f'be at least {least}'}")
    if value > most:
        raise UserError(f"{key}={shorten(value)}: {'is a share, at most' if most == 1 else 'must be at most'} {most}")


def shorten(value: object, most: int = 100) -> str:
    """Write a value for a message, without the middle of what is very long."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 10]}...{text[-7:]}"


def check_path(key: str, value: str) -> None:
    """Check that a text can be a path at all. Raises UserError."""
    shown = shorten(value)
    try:
        path = os.fsencode(Path(value).expanduser().absolute())
    except RuntimeError:
        raise UserError(f"{key}={shown}: there is no such user; write ./~... for a file of that name") from None
    except UnicodeEncodeError:
        raise UserError(f"{key}={shown}: is not valid UTF-8") from None
    if b"\0" in path:
        raise UserError(f"{key}={shown}: a path cannot have a zero byte")
    if len(path) > MAX_PATH_BYTES or any(len(part) > MAX_PART_BYTES for part in path.split(b"/")):
        raise UserError(
            f"{key}={shown}: too long for a path: at most {MAX_PATH_BYTES} bytes, {MAX_PART_BYTES} in each part"
        )


def check_name(setting: str, name: str) -> None:
    """Check a name that becomes that of a folder. Raises UserError."""
    shown = shorten(setting, 400)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{shown}: names a folder, so it must be of letters, digits, dots and dashes alone")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(f"{shown}: names a folder, so it must have at most {MAX_NAME_BYTES} bytes")
