"""The name of a run, with a hash of all settings and data that determine its result."""

from dataclasses import asdict, fields, is_dataclass
from typing import Any, cast

from src.config.renamed import earlier_key, rename_keys
from src.config.schema import TrainConfig
from src.runtime.records import content_sha256

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
"""Settings outside the hash: output, display and evaluation. Data, tokenizer, initial weights and tuned learning rates
are hashed by content, not by name."""

LATER_SETTINGS = (
    "data_draws",
    *(f"size.{name}" for name in ("n_heads", "n_kv_heads")),
    *(f"recipe.{name}" for name in ("qkv_bias", "rope_scaling", "rope_factor", "rope_original_seq_len")),
    *(f"recipe.{name}" for name in ("rope_low_freq_factor", "rope_high_freq_factor")),
    "architecture.n_groups",
    "runtime.kernels",
    "training.stop_accuracy",
)
"""Settings that are outside the hash at their defaults, so that earlier runs keep their names."""


def run_name(config: TrainConfig, data_fingerprint: str, init_sha256: str | None) -> str:
    """Return `<architecture>-<size>-<stage>-s<seed>-<hash>`."""
    own = {item.name: getattr(config, item.name) for item in fields(config) if item.name not in IGNORED_SETTINGS}
    values = {
        key: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for key, value in own.items()
    }
    cast("dict[str, Any]", values["runtime"]).pop("parallel")  # it may change when a run is resumed
    for key in LATER_SETTINGS:
        section, _, name = key.rpartition(".")
        settings = cast("dict[str, Any]", values[section] if section else values)
        owner: Any = getattr(config, section) if section else config
        if settings[name] == getattr(type(owner), name):
            del settings[name]
    deciding = [rename_keys(values, earlier_key), data_fingerprint, init_sha256]
    parts = (config.architecture.name, config.size.name, config.stage.name, f"s{config.seed}", short_hash(deciding))
    return "-".join(parts)


def short_hash(value: object) -> str:
    """Hash a JSON value to 8 hex digits."""
    return content_sha256(value)[:8]
