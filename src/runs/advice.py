"""Choose an architecture, its size and its tokens for a machine and a time, by the laws of a ladder of small runs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from src.cli.compose import build_config, compose_config, register_schema
from src.config.comparability import without_draw
from src.config.schema import (
    CONF,
    AdviseConfig,
    MachineConfig,
    ModelSpec,
    RuntimeConfig,
    SizeConfig,
    TrainConfig,
    UserError,
)
from src.model.cost.model_cost import ModelCost, model_cost
from src.model.size_matching import match_config
from src.reporting import load_runs
from src.reporting.data.json_values import as_dict, read_or_none
from src.reporting.statistics.held_out import HeldOut, held_out_results
from src.reporting.statistics.joint_law import JointLaw, Prediction, fit_joint_laws, left_out_errors
from src.runs.resource_check import largest_by_estimate, leanest_memory, memory_needed, resolve_micro_batch
from src.runs.speed_estimate import Measured, estimate_speed, find_measured
from src.runtime.atomic_files import read_yaml
from src.runtime.host import PROCESS_BYTES, machine_bytes

MOST_EPOCHS = 4
"""Repeated so often, text is worth almost as much as new text (Muennighoff et al., 2023, arXiv 2305.16264)."""
SURE = 0.95
FAR = 10.0
"""Multiple of the ladder's largest size or tokens beyond which the answer is not called sure."""
CONTENDER = 0.05
"""Share of draws in which an architecture is best, from which another run of it can change the answer."""
RUNG_TOKENS_PER_PARAMETER, RUNG_SEEDS = 20, 2
HALVINGS = 6
"""The order of architectures is looked at from 2^-6 to 2^6 times the time given."""
ALIKE = ("data_draws", "data_hash", "tokenizer_hash", "training.seq_len", "training.global_batch_size", "match")
"""Keys of the contract in which the runs of a ladder have to be equal: losses of others do not lie on one law."""
LADDER_SETTINGS = ("match", "recipe.", "training.", "schedule.")
"""What the contract's keys begin with that all runs of a ladder share and a run like them needs."""
LADDER = "python -m src.train -m +experiment=ladder dry_run=true"
PUBLISHED = tuple(
    CONF.parent / "docs" / "results" / name for name in ("ladder", "ladder-held-out", "ladder-three-searches")
)
"""The ladder that is taken where none is given: its sizes, 2m, and micro with rates that were searched at 2m too."""


@dataclass(frozen=True)
class Model:
    """A model that could be trained on the machine."""

    architecture: str
    size: str
    cost: ModelCost
    tokens_per_second: float
    memory: str
    """The form of weights and moments with which it fits: training.memory."""
    memory_bytes: int
    state_bytes: int

    @property
    def params(self) -> float:
        """Active, without embeddings: what the laws are in."""
        return self.cost.active_non_embedding_params


@dataclass(frozen=True)
class Candidate:
    """The best size of an architecture in the time given."""

    model: Model
    law: JointLaw
    tokens: float
    prediction: Prediction
    is_best_in: float = 0.0
    """Share of the laws' draws in which no other architecture has a lower loss."""

    @property
    def extrapolation(self) -> tuple[float, float]:
        """Size and tokens as multiples of the largest of the ladder."""
        points = self.law.points
        sizes, budgets = (max(point[axis] for point in points) for axis in (0, 1))
        return self.model.params / sizes, self.tokens / budgets

    @property
    def is_below(self) -> bool:
        """Whether the ladder has nothing so small."""
        return self.law.is_below(self.model.params, self.tokens)

    @property
    def is_sure(self) -> bool:
        """Whether it is the best of nearly all draws, and neither far beyond nor below what was run."""
        return self.is_best_in >= SURE and max(self.extrapolation) <= FAR and not self.is_below


@dataclass(frozen=True)
class Rung:
    """Runs that would make the answer surer."""

    size: str
    architectures: list[str]
    seconds: float


@dataclass(frozen=True)
class Advice:
    """The answer: candidates, the best first."""

    candidates: list[Candidate]
    changes: list[tuple[float, str]]
    """Hours from which on another architecture is best, and its name; the first from the shortest time looked at."""
    left_out_errors: dict[str, float | None]
    """By architecture: how far the law missed the ladder's largest size when fitted without it."""
    settings: TrainConfig
    """Those of the ladder, for which the losses are predicted, apart from architecture and size."""
    rung: Rung | None
    """None: the answer is sure, or the ladder has all that fits the machine."""


def read_ladder(config: AdviseConfig) -> tuple[pd.DataFrame, list[JointLaw]]:
    """Return the finished runs of the ladder and their laws. Raises: UserError if no law can be fitted to them."""
    folders = ladder_folders(config)
    runs = _finished(map(_load, folders))
    _check_alike(f"ladder={folders}", runs)
    laws = fit_joint_laws(runs)
    if not laws:
        raise UserError(
            f"ladder={folders}: too few finished runs; a law needs three sizes and three budgets of one "
            f"architecture: {LADDER}"
        )
    return runs, laws


def ladder_folders(config: AdviseConfig) -> list[str]:
    """Return the folders of the ladder: the published ones if none is given."""
    return config.ladder or [str(folder) for folder in PUBLISHED]


def _load(folder: str) -> pd.DataFrame:
    return load_runs(Path(folder).expanduser())


def _finished(sweeps: Iterable[pd.DataFrame]) -> pd.DataFrame:
    runs = pd.concat(sweeps, ignore_index=True)
    return runs[runs["status"] == "done"]


def _check_alike(where: str, runs: pd.DataFrame) -> None:
    for key in ALIKE:
        if len(values := {str(without_draw(contract).get(key)) for contract in runs["contract"]}) > 1:
            raise UserError(f"{where}: its runs differ in {key} ({', '.join(sorted(values))[:80]})")


def check_predictions(config: AdviseConfig) -> list[HeldOut]:
    """Compare the laws with the runs of `check`. Raises: UserError if the ladder has them, or other settings."""
    runs, laws = read_ladder(config)
    sweeps = {folder: _load(folder) for folder in config.check}
    _check_alike(f"check={config.check}", _finished([runs, *sweeps.values()]))
    found = [each for folder, own in sweeps.items() for each in held_out_results(laws, Path(folder).expanduser(), own)]
    if not found:
        raise UserError(f"check={config.check}: no run of a size or budget that the ladder does not have")
    return found


def choose_model(config: AdviseConfig) -> Advice:
    """Find the best architecture and size. Raises: UserError if the ladder or the machine's speed is missing."""
    runs, laws = read_ladder(config)
    base = _config_of(runs)
    measured = [] if config.machine.peak_flops_per_second else _measured_here(config)
    models = {law.architecture: _models(config, base, law.architecture, measured) for law in laws}
    if missing := [name for name, found in models.items() if not found]:
        raise UserError(f"machine={config.machine.name}: no size of {missing[0]} fits its memory")
    found: list[Candidate] = []
    for law in laws:
        _, model, tokens = _best_size(config, law, models[law.architecture], config.hours)
        found.append(Candidate(model, law, tokens, law.predict(model.params, tokens)))
    draws = np.stack([each.law.draws(each.model.params, each.tokens)[1:] for each in found])
    winners = np.bincount(draws.argmin(axis=0), minlength=len(found)) / draws.shape[1]
    found = [replace(each, is_best_in=float(share)) for each, share in zip(found, winners, strict=True)]
    found.sort(key=lambda each: each.prediction.loss)
    return Advice(
        found, _changes(config, laws, models), left_out_errors(laws), base, _next_rung(found, models, config.hours)
    )


def _config_of(runs: pd.DataFrame) -> TrainConfig:
    """Return the settings that the runs of a ladder share, from a contract: published runs have no config.yaml."""
    run = runs.iloc[0]
    model = as_dict(as_dict(read_or_none(Path(run["run_dir"]) / "summary.json")).get("model"))
    values = {key: value for key, value in run["contract"].items() if key.startswith(LADDER_SETTINGS)}
    values["tokenizer.vocab_size"] = model["vocab_size"]
    register_schema(TrainConfig, "train")
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]
    return compose_config(TrainConfig, "train", words)


def _models(config: AdviseConfig, base: TrainConfig, architecture: str, measured: Sequence[Measured]) -> list[Model]:
    """Return a model for each size that fits the machine, from the smallest."""
    machine = config.machine
    available = (machine.memory_bytes or machine_bytes()) - PROCESS_BYTES
    chosen = compose_config(TrainConfig, "train", [f"architecture={architecture}"]).architecture
    found: list[Model] = []
    for path in sorted((CONF / "size").glob("*.yaml")):
        settings = replace(
            base,
            architecture=chosen,
            size=build_config(SizeConfig, read_yaml(path)),
            training=replace(base.training, micro_batch_size="auto"),
            runtime=replace(base.runtime, device=machine.device),
        )
        try:
            spec = match_config(settings).spec
        except UserError:  # a pattern may need more layers than a small size has
            continue
        forms = dict.fromkeys([settings.training.memory, leanest_memory(settings)])
        fitting = [form for form in forms if largest_by_estimate(settings, spec, available, memory=form)]
        if not fitting:
            continue
        settings = replace(settings, training=replace(settings.training, memory=fitting[0]))
        settings = resolve_micro_batch(settings, spec, available)
        cost = model_cost(spec, settings.training.seq_len)
        state = model_cost(spec, config.context_len).state_bytes
        speed = _speed(machine, architecture, spec, cost, settings.training.seq_len, measured)
        n_bytes = memory_needed(settings, spec).total
        found.append(Model(architecture, path.stem, cost, speed, fitting[0], n_bytes, state))
    return sorted(found, key=lambda model: model.params)


def _measured_here(config: AdviseConfig) -> list[Measured]:
    from src.runtime.device import open_device

    runtime = RuntimeConfig(device=config.machine.device)
    return find_measured([Path(config.output_root).expanduser()], open_device(runtime).kind)


def _speed(
    machine: MachineConfig,
    architecture: str,
    spec: ModelSpec,
    cost: ModelCost,
    context_len: int,
    measured: Sequence[Measured],
) -> float:
    if machine.peak_flops_per_second:
        return machine.peak_flops_per_second * (machine.utilization or 1.0) / cost.train_flops_per_token
    speed = estimate_speed(architecture, spec, cost, context_len, measured)
    if speed is None:
        raise UserError(
            "machine=here: nothing was measured in output_root; train once, or run python -m src.benchmark, or name a "
            "machine, as in machine=mac_48gb"
        )
    return speed.tokens_per_second


def _best_size(
    config: AdviseConfig, law: JointLaw, models: Sequence[Model], hours: float
) -> tuple[float, Model, float]:
    """Return the lowest predicted loss after these hours, with its model and tokens.

    Among sizes with at most the ladder's tokens for each parameter, unless there is none.
    """
    most = MOST_EPOCHS * config.text_tokens if config.text_tokens else np.inf
    tokens = [float(min(3600 * hours * model.tokens_per_second, most)) for model in models]
    pairs = zip(models, tokens, strict=True)
    known = [(model, n) for model, n in pairs if n / model.params <= law.tokens_per_parameter]
    near = known or [(models[-1], tokens[-1])]
    return min(((float(law.losses(model.params, n)), model, n) for model, n in near), key=lambda each: each[0])


def _changes(config: AdviseConfig, laws: Sequence[JointLaw], models: dict[str, list[Model]]) -> list[tuple[float, str]]:
    changes: list[tuple[float, str]] = []
    for power in range(-HALVINGS, HALVINGS + 1):
        hours = config.hours * 2.0**power
        found = [_best_size(config, law, models[law.architecture], hours) for law in laws]
        best = min(found, key=lambda each: each[0])[1].architecture
        if not changes or changes[-1][1] != best:
            changes.append((hours, best))
    return changes


def _next_rung(candidates: Sequence[Candidate], models: dict[str, list[Model]], hours: float) -> Rung | None:
    """Return runs beyond the ladder of the architectures that may be best, if the answer is not sure.

    The largest that take no longer than the time given, or else the cheapest.
    """
    if candidates[0].is_sure:
        return None
    contenders = [each.model.architecture for n, each in enumerate(candidates) if n < 2 or each.is_best_in >= CONTENDER]
    points = [point for each in candidates for point in each.law.points]
    largest, most = (max(point[axis] for point in points) for axis in (0, 1))
    rungs: list[Rung] = []
    for first in models[contenders[0]]:
        if first.params > 1.1 * largest or RUNG_TOKENS_PER_PARAMETER * first.params > most:
            runs = [model for name in contenders for model in models[name] if model.size == first.size]
            each = (RUNG_TOKENS_PER_PARAMETER * model.params / model.tokens_per_second for model in runs)
            rungs.append(Rung(first.size, [model.architecture for model in runs], RUNG_SEEDS * sum(each)))
    short = [rung for rung in rungs if rung.seconds <= 3600 * hours]
    return short[-1] if short else next(iter(rungs), None)
