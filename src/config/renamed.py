"""Renamed settings: records of earlier versions are read, and errors name the new key of an old one."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

RENAMED: dict[str, str] = {
    "stage.stages.*.mix": "stage.stages.*.mixture",
    "keep": "publish_to",
    "against": "compare_with",
    "architecture.match_knobs": "architecture.free_parameters",
    "launcher.jobs_at_once": "launcher.n_jobs",
    "training.max_bad_steps": "training.max_nonfinite_steps",
}
"""Earlier key: current key, in the same section. A `*` matches any name."""


@lru_cache(maxsize=4096)
def current_key(key: str) -> str:
    """Return the current name of a setting, or of a section."""
    return _rename(key, RENAMED)


@lru_cache(maxsize=4096)
def earlier_key(key: str) -> str:
    """Return the first name of a setting. Hashes of settings use it, so that a new name does not change them."""
    return _rename(key, {new: old for old, new in RENAMED.items()})


def rename_keys(values: dict[str, Any], rename: Callable[[str], str], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with each key renamed by its dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        full = f"{prefix}{key}"
        new = key if rename(full) == full else rename(full).rpartition(".")[2]
        found[new] = value
        if isinstance(value, dict):
            found[new] = rename_keys(cast("dict[str, Any]", value), rename, f"{full}.")
    return found


def _rename(key: str, table: dict[str, str]) -> str:
    parts = key.split(".")
    for old, new in table.items():
        pattern = old.split(".")
        own, rest = parts[: len(pattern)], parts[len(pattern) :]
        if len(own) == len(pattern) and all(name in ("*", part) for name, part in zip(pattern, own, strict=True)):
            return ".".join([*own[:-1], new.rpartition(".")[2], *rest])
    return key
