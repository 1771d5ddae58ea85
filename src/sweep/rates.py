"""Learning rates that `python -m src.tune` has found, and how a job takes its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from src.config import TrainConfig, UserError
from src.overrides import given_keys
from src.runtime.records import read_record, write_record

FILE = "learning_rates.json"
REMEDY = "search again with python -m src.tune"


class Tried(TypedDict):
    """A learning rate and what came of it; None where it diverged."""

    learning_rate: float
    bits_per_byte: float | None


class Found(TypedDict):
    """What was found for one architecture."""

    learning_rate: Annotated[float, Meta(gt=0)]
    edge: str | None
    trials: list[Tried]


class Search(TypedDict):
    """The search for one size."""

    size: str
    optimizer: str
    text: str
    seeds: list[int]
    rates: dict[str, Found]


class Searches(TypedDict):
    """The content of learning_rates.json."""

    format_version: Literal[1]
    searches: list[Search]


def load_searches(folders: Sequence[str]) -> list[Search]:
    """Read what was found. Raises UserError where a folder has nothing."""
    found: list[Search] = []
    for name in folders:
        path = Path(name).expanduser() / FILE
        if not path.is_file():
            raise UserError(
                f"learning_rates=[{name}]: no {FILE} there; give a folder that python -m src.tune has finished"
            )
        found += read_record(path, Searches, REMEDY)["searches"]
    return found


def write_searches(folder: Path, searches: Sequence[Mapping[str, Any]]) -> None:
    """Write what was found, for reports and for `learning_rates`."""
    write_record(folder / FILE, {"format_version": 1, "searches": searches})


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
