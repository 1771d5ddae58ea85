"""Learning rates found by `python -m src.tune`: read, write and apply to jobs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from src.cli.command_line import given_keys
from src.config.comparability import Scalar, search_differences, with_current_names
from src.config.schema import TrainConfig, UserError
from src.data.dataset import Data
from src.model.cost.model_cost import model_cost
from src.model.size_matching import reference_spec
from src.runs.contract import reference_params, training_contract
from src.runs.learning_rate_transfer import TransferredRate, refine_best_rate, transfer_rate
from src.runtime.records import read_record, write_record

if TYPE_CHECKING:
    from src.training.checkpoint import CheckpointInfo

FILE = "learning_rates.json"
REMEDY = "search again with python -m src.tune"
MIN_SIZES = 2
"""Searched sizes of an architecture from which a rate is carried to another one."""


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
    """Apply the rate that was found for the architecture and size of a job, or follows from those of other sizes.

    Raises: UserError if there is none.
    """
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

    data, init: as for `src.runs.contract.training_contract`.
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


def describe_transfers(configs: Sequence[TrainConfig]) -> list[str]:
    """Describe the rates that no search has found for their size, a line for each architecture and size."""
    lines: list[str] = []
    for config in {(each.architecture.name, each.size.name): each for each in configs if each.learning_rates}.values():
        searches, name, size = _searches_of(config), config.architecture.name, config.size.name
        if any(search["size"] == size for search in searches):
            continue
        known, found = _transfer(searches, config)
        sizes = ", ".join(search["size"] for search in known)
        error = "" if found.factor is None else f", times or divided by {found.factor:.2f} (standard error)"
        lines.append(
            f"{name} {size}: rate {found.learning_rate:g}{error}, by a power law over sizes {sizes}: it falls as "
            f"N^{-found.exponent:.2f}"
        )
    return lines


def _search_for(config: TrainConfig) -> Search:
    """Find the search for a job, or carry the rate of its architecture from other sizes. Raises: UserError."""
    searches = _searches_of(config)
    for search in searches:
        if search["size"] == config.size.name:
            return search
    known, found = _transfer(searches, config)
    nearest = known[-1] if _params(known[-1]) < _params_of(config) else known[0]
    architecture = config.architecture.name
    rate: TunedRate = {**nearest["rates"][architecture], "learning_rate": found.learning_rate, "trials": []}
    sizes, texts = (", ".join(search[key] for search in known) for key in ("size", "text"))
    text = f"power law over sizes {sizes}: {texts}"
    seeds = sorted({seed for search in known for seed in search["seeds"]})
    return {**nearest, "text": text, "seeds": seeds, "rates": {architecture: rate}}


def _searches_of(config: TrainConfig) -> list[Search]:
    """Return the searches of a job's architecture and optimizer, for all sizes."""
    name, optimizer = config.architecture.name, config.optimizer.name
    searches = load_searches(config.learning_rates)
    return [search for search in searches if name in search["rates"] and search["optimizer"] == optimizer]


def _transfer(searches: Sequence[Search], config: TrainConfig) -> tuple[list[Search], TransferredRate]:
    """Return the searches of other sizes, smallest first, and the rate by their law. Raises: UserError."""
    architecture, size, optimizer = config.architecture.name, config.size.name, config.optimizer.name
    known = sorted((search for search in searches if _params(search)), key=_params)
    if len({_params(search) for search in known}) < MIN_SIZES:
        raise UserError(
            f"learning_rates={config.learning_rates}: nothing found for architecture={architecture} size={size} "
            f"optimizer={optimizer}; search with "
            f"python -m src.tune architecture={architecture} size={size} optimizer={optimizer}, or for two or more "
            "smaller sizes, which give a power law"
        )
    best = [(_params(search), _best_rate(search["rates"][architecture])) for search in known]
    return known, transfer_rate(best, _params_of(config))


def _params(search: Search) -> float:
    return reference_params(search.get("contract", {})) or 0.0


def _params_of(config: TrainConfig) -> float:
    return model_cost(reference_spec(config), config.training.seq_len).active_non_embedding_params


def _best_rate(found: TunedRate) -> float:
    """Return the best rate of a search, finer than its grid, at the warm-up that it chose."""
    own = [trial for trial in found["trials"] if trial.get("warmup_steps") == found.get("warmup_steps")]
    losses = [(trial["learning_rate"], trial["bits_per_byte"]) for trial in own]
    tried = [(rate, math.inf if loss is None else loss) for rate, loss in losses]
    return refine_best_rate(tried) if tried else found["learning_rate"]
