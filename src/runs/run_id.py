"""The name of a run says what it is, and its hash covers all settings and data that decide the result."""

import hashlib
import json
from dataclasses import asdict

from src.config.renamed import earlier_key, rename_keys
from src.config.schema import TrainConfig

IGNORED_SETTINGS = (
    "output_root",
    "sweep_name",
    "rerun",
    "dry_run",
    "tracking",
    "launcher",
    "sweep",
    "seeds",
    "evaluation",
    "verdict",
    "data",
    "tokenizer",
    "init_from",
    "learning_rates",
)
"""Where things go, how they are shown, and what is measured afterwards; data, tokenizer, initial weights and found
learning rates count by content, not by name."""


def run_name(config: TrainConfig, data_fingerprint: str, init_sha256: str | None) -> str:
    """Return `<architecture>-<size>-<stage>-s<seed>-<hash>`."""
    values = {key: value for key, value in asdict(config).items() if key not in IGNORED_SETTINGS}
    deciding = [rename_keys(values, earlier_key), data_fingerprint, init_sha256]
    parts = (config.architecture.name, config.size.name, config.stage.name, f"s{config.seed}", short_hash(deciding))
    return "-".join(parts)


def short_hash(value: object) -> str:
    """Hash a JSON value to 8 hex digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
