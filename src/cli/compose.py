"""Compose a command line into plain dataclasses by Hydra.

Keys that Hydra's `+` adds to the schema are errors.
"""

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from src.cli.command_line import (
    SINGLE_RUN,
    explain_hydra_error,
    given_keys,
    no_such_setting,
)
from src.cli.config_loader import CachedConfigLoader, parse
from src.config.checks import check_settings, shorten
from src.config.renamed import current_key, rename_keys
from src.config.schema import CONF, EXPERIMENTS, TrainConfig, UserError, experiment_files
from src.runtime.atomic_files import read_yaml
from src.runtime.records import child_path

MAX_JOBS = 10_000
"""Upper limit of the jobs of one sweep, to bound the planning time."""
T = TypeVar("T")


class Registered(NamedTuple):
    """What a command was registered with."""

    schema: type
    experiments: list[tuple[Path, int]]
    """Each file of experiments/ and when it was changed."""


registered: dict[str, Registered] = {}
"""By command: what has not changed is composed once."""


def register_schema(schema: type, command: str) -> None:
    """Register the schema of a command and every YAML file of experiments with Hydra, from any working directory."""
    files = experiment_files(EXPERIMENTS)
    content = Registered(schema, [(path, path.stat().st_mtime_ns) for path in files.values()])
    if registered.get(command) == content:
        return
    if command in registered or any(other.experiments != content.experiments for other in registered.values()):
        CachedConfigLoader.clear()
    store = ConfigStore.instance()
    store.store(name=f"{command}_schema", node=schema)
    for name, path in files.items():
        try:
            node = OmegaConf.load(path)
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
        group, _, stem = f"experiment/{name}".rpartition("/")
        store.store(group=group, name=stem, node=node, package="_global_")
    registered[command] = content


@contextmanager
def hydra_session(overrides: Sequence[str], keys: Sequence[str]) -> Iterator[CachedConfigLoader]:
    """Open Hydra on conf/; its errors become UserError in terms of `overrides` and known `keys`."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield typing.cast(CachedConfigLoader, GlobalHydra.instance().config_loader())
    except UserError:
        raise
    except Exception as error:  # Hydra and OmegaConf also raise other errors for invalid values
        raise UserError(explain_hydra_error(error, overrides, keys)) from None


def compose_config(schema: type[T], command: str, overrides: Sequence[str]) -> T:
    """Compose one job. Raises: UserError for invalid overrides."""
    with hydra_session(overrides, schema_keys(schema)) as loader:
        check_choices(loader, overrides)
        check_booleans(schema, overrides)

        def composed(overrides: Sequence[str]) -> T:
            with loader.borrow(command, overrides) as config:
                _reject_unknown_keys(config, schema, "")
                return typing.cast(T, OmegaConf.to_object(config))

        try:
            return schema(**loader.compose_sections(command, overrides, partial(_convert_section, schema)))
        except Exception:
            pass  # composed as a whole it raises Hydra's own error
        try:
            return composed(overrides)
        except UserError:
            raise
        except Exception as error:
            culprit = find_culprit(overrides, composed, str(error))
            raise UserError(explain_hydra_error(error, culprit, schema_keys(schema))) from None


def check_choices(loader: CachedConfigLoader, overrides: Sequence[str]) -> None:
    """Check that the chosen file of each group of conf/ exists. Raises: UserError."""
    for override in overrides:
        item = parse(override)
        if not loader.is_choice(item) or item.is_sweep_override() or item.is_delete():
            continue
        value, group = item.value(), item.key_or_group
        for choice in value if isinstance(value, list) else [value]:
            if not isinstance(choice, str) or not loader.repository.config_exists(f"{group}/{choice}"):
                known = ", ".join(sorted(loader.get_group_options(group)))
                shown = re.sub(r"\\([^\w\s'\"\\])", r"\1", override.partition("=")[2])
                raise UserError(f"{group}={shorten(shown)}: no such choice; there are {known}")


def check_booleans(schema: type, overrides: Sequence[str]) -> None:
    """Check that booleans are not other numbers, which OmegaConf accepts. Raises: UserError."""
    for override in overrides:
        item = parse(override)
        value: Any = item.value()
        if type(value) is int and value not in (0, 1) and field_type(schema, item.key_or_group) in (bool, bool | None):
            raise UserError(f"{shorten(override)}: must be true or false")


def field_type(schema: type, key: str) -> Any:
    """Return the type of a dotted key of a schema; None if there is no such key."""
    kind: Any = schema
    for part in key.split("."):
        kind = _field_types(kind).get(part) if dataclasses.is_dataclass(kind) else None
    return kind


def find_culprit(overrides: Sequence[str], composed: Callable[[Sequence[str]], object], message: str) -> Sequence[str]:
    """Return the invalid override: alone it fails with the same message, or all others compose without it."""

    def fails(chosen: Sequence[str]) -> str | None:
        try:
            composed(chosen)
        except Exception as error:
            return str(error)
        return None

    if len(overrides) < 2:
        return overrides
    alone = [item for item in overrides if fails([item]) == message]
    others = [item for item in overrides if fails([other for other in overrides if other != item]) is None]
    return alone[:1] or others[:1] or [" ".join(overrides)]


class Sweep(NamedTuple):
    """The jobs of a command line."""

    overrides: list[str]
    """All overrides, including those that an experiment sweeps over."""
    jobs: list[list[str]]
    """The overrides of each job: `a=1,2 b=3` gives two."""
    is_from_experiment: bool


def expand_sweep(command: str, schema: type, overrides: Sequence[str]) -> Sweep:
    """Expand a command line into jobs; its keys replace those in `hydra.sweeper.params`.

    Seeds vary slowest: every architecture has as many as the others at any time, and a change of the machine's speed
    affects all alike.
    """
    with hydra_session(overrides, schema_keys(schema)) as loader:
        parser = OverridesParser.create(config_loader=loader)
        parsed: list[Override] = parser.parse_overrides(list(overrides))
        check_choices(loader, overrides)
        check_sweeps(parsed)
        choices, _ = loader.split([item for item in parsed if not item.is_sweep_override()])
        deciding = [item.input_line or "" for item in choices if not loader.decides_one_section(item)]
        base = compose(command, overrides=deciding, return_hydra_config=True)
        params = {} if SINGLE_RUN in overrides else (base.hydra.sweeper.params or {})
        added = [f"{key}={value}" for key, value in params.items() if key not in given_keys(overrides)]
        swept = parser.parse_overrides([*added, *overrides])
        check_sweeps(swept)
        values_of: dict[str, list[str]] = {}  # a later override of a key replaces an earlier one
        for item in swept:
            key = item.get_key_element()
            values = item.sweep_string_iterator() if item.is_sweep_override() else [item.get_value_element_as_str()]
            values_of[key] = [f"{key}={value}" for value in values]
        jobs = [list(job) for job in product(*values_of.values())]
        if seeds := values_of.get("seed"):
            place = list(values_of).index("seed")
            jobs.sort(key=lambda job: seeds.index(job[place]))
        return Sweep([*added, *overrides], jobs, bool(params))


def check_sweeps(overrides: Sequence[Override]) -> None:
    """Check that the values of a sweep can be listed and are not too many. Raises: UserError."""
    n = 1
    for item in overrides:
        if not item.is_sweep_override():
            continue
        line = shorten(item.input_line)
        if not item.is_discrete_sweep():
            raise UserError(f"{line}: an interval has no finite list of values; list some, as in a,b or range(1,4)")
        try:
            n *= sum(1 for _ in islice(item.sweep_string_iterator(), MAX_JOBS + 1))
        except (HydraException, ValueError, ArithmeticError) as error:
            raise UserError(f"{line}: gives no values ({error})") from None
        if n > MAX_JOBS:
            raise UserError(f"{line}: more than {MAX_JOBS} jobs in one sweep; give fewer values")
        if n == 0:
            raise UserError(f"{line}: gives no value")


@cache
def schema_keys(schema: type, prefix: str = "") -> list[str]:
    """Return every key of a schema, including sections."""
    found = []
    hints = _field_types(schema)
    for item in dataclasses.fields(schema):
        name = f"{prefix}{item.name}"
        found.append(name)
        if dataclasses.is_dataclass(hints[item.name]):
            found += schema_keys(typing.cast(type, hints[item.name]), f"{name}.")
    return found


def build_config(schema: type[T], values: dict[str, Any]) -> T:
    """Build a typed configuration from plain values, without interpolation of `${`."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.replace("${", "\\${") if isinstance(value, str) else value

    return typing.cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain(values))))


def read_run_config(path: Path) -> TrainConfig:
    """Read the config.yaml of a run. Raises: UserError if it is missing or invalid."""
    return build_run_config(read_yaml(path, "data", "stage", "runtime", "training"), path)


def check_has_text(folder: Path) -> None:
    """Raise UserError if the run in a folder was trained on a task, whose tokens are no text."""
    path = folder / "config.yaml"
    if (folder / "tokenizer.json").exists():  # reading the settings would take 0.2 s at each start
        return
    if path.is_file() and (config := read_run_config(path)).data.is_task:
        raise UserError(
            f"{folder}: trained on the task {config.data.task.name}, which has no text; its results are read by "
            "python -m src.evaluate and python -m src.report"
        )


def build_run_config(values: Any, path: Path) -> TrainConfig:
    """Build the configuration of a run of any version from the values of a file. Raises: UserError naming the file."""
    try:
        config = build_config(TrainConfig, rename_keys(values, current_key))
        check_settings(config)
    except (OmegaConfBaseException, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not the configuration of a run ({' '.join(str(error).split())[:300]})") from None
    for name in config.stage.stages:
        child_path(path, name)
    return config


@cache
def _field_types(schema: type) -> dict[str, Any]:
    """Return the type of each field of a schema."""
    return typing.get_type_hints(schema)


def _reject_unknown_keys(config: DictConfig, schema: type, prefix: str) -> None:
    hints = _field_types(schema)
    for key in config:
        name = f"{prefix}{key}"
        if key not in hints:
            raise UserError(f"{name}: {no_such_setting(name, schema_keys(schema, prefix))}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(config._get_node(key), DictConfig):
            _reject_unknown_keys(config[key], typing.cast(type, hints[key]), f"{name}.")


def _convert_section(schema: type, config: DictConfig, key: str) -> Any:
    """Convert a section to its dataclass, or a single value. Raises: UserError for a key that the schema lacks."""
    value, kind = config[key], _field_types(schema)[key]
    if not isinstance(value, Container):
        return value
    if isinstance(value, DictConfig) and dataclasses.is_dataclass(kind):
        _reject_unknown_keys(value, typing.cast(type, kind), f"{key}.")
    return OmegaConf.to_object(value)
