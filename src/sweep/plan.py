"""From overrides to a run that can start: composed, checked, its data at hand, its folder named."""

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from src.compose import compose_config
from src.config import TrainConfig, UserError
from src.data.loader import build_loader, eval_windows
from src.data.packing import PreparedData, find_prepared, prepare_data
from src.data.sources import GENERATED
from src.limits import check_settings
from src.model.matching import match_of
from src.preflight import check_disk, check_memory
from src.runtime.files import sha256_of
from src.sweep.identity import run_name
from src.sweep.rates import with_found_rate
from src.validation import validate

if TYPE_CHECKING:
    from src.training.checkpoint import CheckpointInfo

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """A run that can start."""

    config: TrainConfig
    data: PreparedData
    init: "CheckpointInfo | None"
    folder: Path


def plan_runs(jobs: list[list[str]]) -> list[Plan]:
    """Plan a run for each list of overrides; all are checked before data is prepared for any.

    Raises:
        UserError: a configuration is wrong, or its data is not prepared.
    """
    checked = check_jobs(jobs)
    return [_plan(config, init) for config, init in show_progress(checked, "Planning jobs")]


def check_jobs(jobs: list[list[str]]) -> "list[tuple[TrainConfig, CheckpointInfo | None]]":
    """Compose all jobs of a command line and check what needs no data. Raises: UserError."""
    return [check_job(overrides) for overrides in show_progress(jobs, "Checking jobs")]


def show_progress(items: Collection[T], what: str) -> Iterable[T]:
    """Show on standard error how far a loop over jobs has come, where it takes more than a second."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(items, what, unit="job", delay=1.0, mininterval=interval, leave=False)


def check_job(overrides: list[str]) -> "tuple[TrainConfig, CheckpointInfo | None]":
    """Compose a job and check all that needs no data. Raises: UserError."""
    config, init = compose_config(TrainConfig, "train", overrides), None
    check_settings(config)
    if config.init_from is not None and config.learning_rates:
        raise UserError(f"learning_rates={config.learning_rates}: init_from brings the rate of its run; leave one out")
    if config.init_from is not None:
        from src.lineage import inherit  # reads checkpoints, so it needs torch

        config, init = inherit(config, overrides)
    elif config.learning_rates:
        config = with_found_rate(config, overrides)
    validate(config)
    if config.runtime.device not in ("auto", "cpu") or config.runtime.precision == "fp16":
        from src.runtime.device import open_device  # asks torch what there is

        open_device(config.runtime)
    return config, init


def _plan(config: TrainConfig, init: "CheckpointInfo | None") -> Plan:
    root = Path(config.output_root).expanduser()
    return make_plan(config, init, _find_data(config, root))


def make_plan(config: TrainConfig, init: "CheckpointInfo | None", data: PreparedData) -> Plan:
    """Name a job's run, and see that its data and this machine serve it. Raises: UserError."""
    if init is not None and init.tokenizer_sha256 != data.manifest["tokenizer"]["sha256"]:
        raise UserError(
            f"init_from={config.init_from}: its weights speak another tokenizer than {data.folder}; "
            "use the data that the run was trained on (data.dir=...)"
        )
    for stage in config.stage.stages.values():
        build_loader(data, stage, config.training.seq_len, 0)
        for corpus in stage.corpora:
            eval_windows(data.tokens(corpus, "val"), config.training.seq_len, 1, f"the held-out {corpus} text")
    config = replace(
        config,
        data=replace(config.data, name=data.manifest["name"], dir=str(data.folder.resolve())),
        tokenizer=replace(config.tokenizer, vocab_size=data.vocab_size),
    )
    weights = sha256_of(init.folder / "model.safetensors") if init else None
    folder = Path(config.output_root).expanduser() / "runs" / run_name(config, data.fingerprint, weights)
    check_machine(config, folder)
    return Plan(config, data, init, folder)


def check_machine(config: TrainConfig, folder: Path) -> None:
    """See that memory and disk will do. Raises: UserError."""
    spec = match_of(config).spec
    check_memory(config, spec)
    check_disk(config, spec, folder)


def refuse_twins(names: list[str]) -> None:
    """Raise UserError where two jobs of a sweep are one run."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice}: two jobs of the sweep are the same run; drop one of the values")


def _find_data(config: TrainConfig, root: Path) -> PreparedData:
    if prepared := find_prepared(config.data, config.tokenizer, root):
        return prepared
    if {config.data.language.source, config.data.code.source} <= set(GENERATED):
        return prepare_data(config.data, config.tokenizer, root)
    corpora = {"language": config.data.language, "code": config.data.code}
    paths = " ".join(f"data.{name}.paths=[...]" for name, corpus in corpora.items() if corpus.source == "local")
    raise UserError(
        f"data={config.data.name}: not prepared in {root / 'data'}; first run python -m src.prepare "
        f"data={config.data.name} with the same settings{paths and f' ({paths})'}"
    )
