"""Learning rates found by `python -m src.tune`: read, write and apply to jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from src.cli.command_line import given_keys
from src.config.comparability import Scalar, search_differences, with_current_names
from src.config.schema import TrainConfig, UserError
from src.data.dataset import Data
from src.runs.summary import training_contract
from src.runtime.records import read_record, write_record

if TYPE_CHECKING:
    from src.training.checkpoint import CheckpointInfo

FILE = "learning_rates.json"
REMEDY = "search again with python -m src.tune"


class TriedRate(TypedDict):
    """A learning rate and its loss; None if it diverged."""

    learning_rate: float
    bits_per_byte: float | None
    """Of a task, its nats per answer."""
    warmup_steps: NotRequired[int | None]


class TunedRate(TypedDict):
    """The result for one architecture."""

    learning_rate: Annotated[float, Meta(gt=0)]
    warmup_steps: NotRequired[int | None]
    """None: the default, as the warm-up was not searched."""
    edge: str | None
    trials: list[TriedRate]


class Search(TypedDict):
    """The search for one size."""

    size: str
    optimizer: str
    unit: NotRequired[str]
    """Of the losses; missing in searches of earlier versions: bits per byte."""
    text: str
    seeds: list[int]
    contract: NotRequired[dict[str, Scalar]]
    """Contract of the trials; missing in searches of earlier versions."""
    rates: dict[str, TunedRate]


class Searches(TypedDict):
    """The content of learning_rates.json."""

    format_version: Literal[1]
    searches: list[Search]


def load_searches(folders: Sequence[str]) -> list[Search]:
    """Read the searches of all folders. Raises: UserError if a folder has none."""
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
    """Write searches for reports and for `learning_rates`."""
    write_record(folder / FILE, {"format_version": 1, "searches": searches})


def with_tuned_rate(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """Apply the rate that was found for the architecture and size of a job. Raises: UserError if there is none."""
    if "optimizer.learning_rate" in given_keys(overrides):
        raise UserError(
            f"learning_rates={config.learning_rates}: has a rate for every job already; leave out "
            "optimizer.learning_rate"
        )
    search = _search_for(config)
    if config.seed in search["seeds"]:
        raise UserError(f"seed={config.seed}: the learning rates were chosen by it; compare with other seeds")
    found, schedule = search["rates"][config.architecture.name], config.schedule
    if (warmup := found.get("warmup_steps")) is not None:
        if "schedule.warmup_steps" in given_keys(overrides):
            raise UserError(
                f"learning_rates={config.learning_rates}: has a warm-up for every job already; leave out "
                "schedule.warmup_steps"
            )
        schedule = replace(schedule, warmup_steps=warmup, searched=True)
    optimizer = replace(config.optimizer, learning_rate=found["learning_rate"], search=search["text"])
    return replace(config, optimizer=optimizer, schedule=schedule)


def with_search_differences(config: TrainConfig, data: Data | None, init: "CheckpointInfo | None") -> TrainConfig:
    """Record the differences between the search that a job takes its rate from and the job.

    data, init: as for `src.runs.summary.training_contract`.
    """
    if not config.learning_rates:
        return config
    made_for = _search_for(config).get("contract")
    lines = (
        ["made by an earlier version"]
        if made_for is None
        else search_differences(with_current_names(made_for), training_contract(config, data, init))
    )
    return replace(config, optimizer=replace(config.optimizer, search_differences=lines))


def _search_for(config: TrainConfig) -> Search:
    """Find the search for the architecture, size and optimizer of a job. Raises: UserError if there is none."""
    architecture, size, optimizer = config.architecture.name, config.size.name, config.optimizer.name
    for search in load_searches(config.learning_rates):
        if architecture in search["rates"] and (size, optimizer) == (search["size"], search["optimizer"]):
            return search
    raise UserError(
        f"learning_rates={config.learning_rates}: nothing found for architecture={architecture} size={size} "
        f"optimizer={optimizer}; search with "
        f"python -m src.tune architecture={architecture} size={size} optimizer={optimizer}"
    )
