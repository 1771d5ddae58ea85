"""Runs that start from another run: what they inherit, and what may not contradict it."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.cli.command_line import given_keys
from src.cli.compose import build_config, compose_config, read_run_config
from src.config.schema import TrainConfig, UserError
from src.training.checkpoint import CheckpointInfo, find_checkpoint

FIXED = ("architecture", "size", "recipe", "tokenizer", "match")
"""What the weights decide: taken from the run, and an override that says otherwise is an error."""
INHERITED = ("data", "training", "optimizer", "schedule")
"""What the run hands on unless the command line says otherwise."""


def inherit_settings(config: TrainConfig, overrides: list[str]) -> tuple[TrainConfig, CheckpointInfo]:
    """Fill a configuration that names `init_from` with what that run decides.

    Raises:
        UserError: there is no such run, or an override contradicts it.
    """
    assert config.init_from is not None
    try:
        info = find_checkpoint(Path(config.init_from).expanduser().resolve(), "last")
    except UserError as error:  # its line begins with the path
        raise UserError(f"init_from={error}") from None
    source_path = info.folder.parents[2] / "config.yaml"
    if not source_path.exists():
        raise UserError(f"init_from={config.init_from}: {source_path} is missing; give a run directory of src.train")
    source = asdict(read_run_config(source_path))
    default, merged = asdict(compose_config(TrainConfig, "train", [])), asdict(config)
    keys = given_keys(overrides)
    other_text = any(key.startswith("data.") and key != "data.dir" for key in keys)
    if other_text or not Path(source["data"]["dir"] or "").exists():
        source["data"]["dir"] = None  # found by its settings: the run's folder is not what is asked for, or has moved

    def settle(ours: Any, standard: Any, theirs: Any, path: str) -> Any:
        """Choose between ours and theirs, leaf by leaf; ours was asked for if a key names it or it is no default."""
        if isinstance(ours, dict) and isinstance(theirs, dict):
            # A setting that is younger than the run had its default there.
            known = {key: (standard.get(key), theirs.get(key, standard.get(key))) for key in ours}
            return {key: settle(ours[key], *known[key], f"{path}.{key}") for key in ours}
        asked = ours != standard or any(path == key or path.startswith(f"{key}.") for key in keys)
        if not asked or ours == theirs:
            return theirs
        if path.split(".", maxsplit=1)[0] in FIXED:
            raise UserError(
                f"{path}={ours}: contradicts init_from={config.init_from}, whose weights have {path}={theirs}; "
                "leave it out"
            )
        return ours

    _describe_search(source["optimizer"], keys)
    source["training"].pop("measured_steps", None)  # what fits into the time is another number in another stage
    for section in (*FIXED, *INHERITED):
        merged[section] = settle(merged[section], default[section], source[section], section)
    return build_config(TrainConfig, merged), info


def _describe_search(optimizer: dict[str, Any], keys: Collection[str]) -> None:
    """Say of a rate that is handed on that it was searched for another run, and of any other that it was not."""
    if "optimizer.learning_rate" in keys:
        optimizer |= {"search": "none", "search_differences": []}
    elif optimizer.get("search", "none") not in ("none", "trial"):
        optimizer["search_differences"] = ["made for the run that the weights come from"]
