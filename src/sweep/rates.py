"""Learning rates that `python -m src.tune` has found, and how a job takes its own."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from src.config import TrainConfig, UserError
from src.overrides import given_keys
from src.runtime.files import read_json, write_json

FILE = "learning_rates.json"
FORMAT_VERSION = 1


def load_searches(folders: Sequence[str]) -> list[dict[str, Any]]:
    """Read what was found. Raises UserError where a folder has nothing."""
    found: list[dict[str, Any]] = []
    for name in folders:
        path = Path(name).expanduser() / FILE
        if not path.is_file():
            raise UserError(
                f"learning_rates=[{name}]: no {FILE} there; give a folder that python -m src.tune has finished"
            )
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            raise UserError(f"{path}: not of format version {FORMAT_VERSION}; search again with python -m src.tune")
        found += content["searches"]
    return found


def write_searches(folder: Path, searches: list[dict[str, Any]]) -> None:
    """Write what was found, for reports and for `learning_rates`."""
    write_json(folder / FILE, {"format_version": FORMAT_VERSION, "searches": searches})


def with_found_rate(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """Give a job the rate that was found for its architecture and size. Raises UserError where there is none."""
    given = f"learning_rates={config.learning_rates}"
    if "optimizer.learning_rate" in given_keys(overrides):
        raise UserError(f"{given}: has a rate for every job already; leave out optimizer.learning_rate")
    wanted = (config.architecture.name, config.size.name, config.optimizer.name)
    for search in load_searches(config.learning_rates):
        rates = search["rates"]
        if wanted[0] in rates and wanted[1:] == (search["size"], search["optimizer"]):
            if config.seed in search["seeds"]:
                raise UserError(f"seed={config.seed}: the learning rates were chosen by it; compare with other seeds")
            rate = rates[wanted[0]]["learning_rate"]
            return replace(config, optimizer=replace(config.optimizer, learning_rate=rate, search=search["text"]))
    architecture, size, optimizer = wanted
    raise UserError(
        f"{given}: nothing found for architecture={architecture} size={size} optimizer={optimizer}; search with "
        f"python -m src.tune architecture={architecture} size={size} optimizer={optimizer}"
    )
