"""Runs that start from the weights of another run, and the settings that they inherit."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.cli.command_line import given_keys
from src.cli.compose import build_config, compose_config, read_run_config
from src.config.schema import TrainConfig, UserError
from src.training.checkpoint import CheckpointInfo, find_checkpoint

FIXED = ("architecture", "size", "recipe", "tokenizer", "match", "match_grain")
"""Sections determined by the weights: taken from the source run; a different override is an error."""
INHERITED = ("data", "training", "optimizer", "schedule")
"""Sections taken from the source run unless the command line sets them."""


def inherit_settings(config: TrainConfig, overrides: list[str]) -> tuple[TrainConfig, CheckpointInfo]:
    """Complete a configuration that names `init_from` with the settings of that run.

    Raises:
        UserError: there is no such run, or an override contradicts it.
    """
    assert config.init_from is not None
    try:
        info = find_checkpoint(Path(config.init_from).expanduser().resolve(), "last")
    except UserError as error:  # its message starts with the path
        raise UserError(f"init_from={error}") from None
    source_path = info.folder.parents[2] / "config.yaml"
    if not source_path.exists():
        raise UserError(f"init_from={config.init_from}: {source_path} is missing; give a run directory of src.train")
    source = asdict(read_run_config(source_path))
    default, merged = asdict(compose_config(TrainConfig, "train", [])), asdict(config)
    keys = given_keys(overrides)
    if "data" in keys and not any(key.split(".")[0] == "tokenizer" for key in keys):
        merged["tokenizer"] = default["tokenizer"]  # data=NAME may choose one, but the weights have theirs
    other_text = any(key.startswith("data.") and key != "data.dir" for key in keys)
    if other_text or not Path(source["data"]["dir"] or "").exists():
        source["data"]["dir"] = None  # find it by its settings: they differ from the run's, or its folder has moved

    def merge(ours: Any, standard: Any, theirs: Any, path: str) -> Any:
        """Choose ours or theirs for each leaf; ours if an override sets it or it is not the default."""
        if isinstance(ours, dict) and isinstance(theirs, dict):
            # A setting that is newer than the source run had its default there.
            known = {key: (standard.get(key), theirs.get(key, standard.get(key))) for key in ours}
            return {key: merge(ours[key], *known[key], f"{path}.{key}") for key in ours}
        is_set = ours != standard or any(path == key or path.startswith(f"{key}.") for key in keys)
        if not is_set or ours == theirs:
            return theirs
        if path.split(".", maxsplit=1)[0] in FIXED:
            raise UserError(
                f"{path}={ours}: contradicts init_from={config.init_from}, whose weights have {path}={theirs}; "
                "leave it out"
            )
        return ours

    _record_search_origin(source["optimizer"], keys)
    source["training"].pop("measured_steps", None)  # the number of steps differs between stages
    for section in (*FIXED, *INHERITED):
        merged[section] = merge(merged[section], default[section], source[section], section)
    return build_config(TrainConfig, merged), info


def _record_search_origin(optimizer: dict[str, Any], keys: Collection[str]) -> None:
    """Record that an inherited rate was searched for another run, and that a given rate was not searched."""
    if "optimizer.learning_rate" in keys:
        optimizer |= {"search": "none", "search_differences": []}
    elif optimizer.get("search", "none") not in ("none", "trial"):
        optimizer["search_differences"] = ["made for the run that the weights come from"]
