"""From a command line to plain dataclasses: Hydra composes, everything below the commands sees typed values.

Hydra's errors come back as one line with key, value and remedy; keys that its `+` lets past the schema are refused.
"""

import argparse
import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.config import ROOT, UserError

CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"
SINGLE_RUN = "hydra.mode=RUN"
"""Says that a command line is one job of a sweep, whatever its experiment sweeps over."""
T = TypeVar("T")

FLAGS_OF_THE_ORIGINAL = {
    "architecture": "architecture=moe",
    "stage": "stage=code",
    "model-size": "size=tiny",
    "num-experts": "architecture.n_experts=8",
    "batch-size": "training.micro_batch_size=4",
    "gradient-accumulation-steps": "training.global_batch_size=16 (micro_batch_size times accumulation steps)",
    "num-epochs": "training.max_steps=3000 (epochs times steps per epoch)",
    "steps-per-epoch": "training.max_steps=3000 (epochs times steps per epoch)",
    "learning-rate": "optimizer.learning_rate=3e-4",
    "warmup-steps": "schedule.warmup_steps=300",
    "checkpoint": "init_from=outputs/runs/NAME",
    "use-compile": "runtime.compile=true",
    "use-rmsnorm": "recipe.norm=rmsnorm",
    "use-rope": "recipe.position=rope",
    "use-amp": "runtime.precision=bf16",
    "use-gradient-checkpointing": "runtime.activation_checkpointing=true",
}
"""What the script that this program succeeds called its options."""


def register(schema: type, command: str) -> None:
    """Make the schema of a command and every experiments/*.yaml known to Hydra, from any working directory."""
    store = ConfigStore.instance()
    store.store(name=f"{command}_schema", node=schema)
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        store.store(group="experiment", name=path.stem, node=OmegaConf.load(path), package="_global_")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Split a command line into Hydra's own flags and overrides. Raises UserError for a flag that Hydra lacks."""
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--") and name.replace("_", "-") in FLAGS_OF_THE_ORIGINAL:
            raise UserError(
                f"{argument}: settings have no dashes; write {FLAGS_OF_THE_ORIGINAL[name.replace('_', '-')]}"
            )
    parser = get_args_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(f"{unknown[0]}: no such flag; settings are written key=value, and --help lists them")
    for override in arguments.overrides:
        if "=" not in override and not override.startswith("~"):
            raise UserError(f"{override}: settings are written key=value, for example architecture=moe")
    return arguments


@contextmanager
def hydra_session(overrides: Sequence[str], keys: Sequence[str]) -> Iterator[None]:
    """Open Hydra on our conf folder; its errors leave as UserError, told in terms of `overrides` and known `keys`."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(explain(error, overrides, keys)) from None


def compose_config(schema: type[T], command: str, overrides: Sequence[str]) -> T:
    """Compose one job. Raises UserError for anything wrong with the overrides."""
    with hydra_session(overrides, keys_of(schema)):
        return _to_object(compose(command, overrides=list(overrides)), schema)


class Sweep(NamedTuple):
    """What a command line sweeps over."""

    overrides: list[str]
    """The whole of it, what an experiment sweeps over included."""
    jobs: list[list[str]]
    """The overrides of each job: `a=1,2 b=3` are two."""
    asked_by_experiment: bool


def expand_sweep(command: str, schema: type, overrides: Sequence[str]) -> Sweep:
    """Expand a command line into jobs; a key on it takes the place of the same key in `hydra.sweeper.params`."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    with hydra_session(overrides, keys_of(schema)):
        loader = GlobalHydra.instance().config_loader()
        parser = OverridesParser.create(config_loader=loader)
        parsed: list[Override] = parser.parse_overrides(list(overrides))
        plain = [item.input_line or "" for item in parsed if not item.is_sweep_override()]
        base = compose(command, overrides=plain, return_hydra_config=True)
        params = {} if SINGLE_RUN in overrides else (base.hydra.sweeper.params or {})
        added = [f"{key}={value}" for key, value in params.items() if key not in given_keys(overrides)]
        jobs = BasicSweeper.split_arguments(parser.parse_overrides([*added, *overrides]), None)[0]
        return Sweep([*added, *overrides], [list(job) for job in jobs], bool(params))


def quote(value: str) -> str:
    """Write a value so that Hydra's grammar and interpolation leave it as it is."""
    escaped = value.replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"


def quote_paths(argv: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Quote the values of path keys that are one plain path: no list of a sweep, and not quoted by hand."""
    quoted = []
    for argument in argv:
        key, sign, value = argument.partition("=")
        plain = sign and key in keys and value != "null" and not re.search(r"[,'\"]|^$", value)
        quoted.append(f"{key}={quote(value)}" if plain else argument)
    return quoted


def given_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that overrides touch, without their operators."""
    return {re.split(r"[=@]", override.lstrip("+~"))[0] for override in overrides}


def keys_of(schema: type, prefix: str = "") -> list[str]:
    """List every key of a schema, sections included."""
    found = []
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        name = f"{prefix}{item.name}"
        found.append(name)
        if dataclasses.is_dataclass(hints[item.name]):
            found += keys_of(typing.cast(type, hints[item.name]), f"{name}.")
    return found


def to_config(schema: type[T], values: dict[str, Any]) -> T:
    """Build a typed configuration from plain values."""
    return typing.cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values)))


def _to_object(config: DictConfig, schema: type[T]) -> T:
    _refuse_unknown(config, schema, "")
    OmegaConf.resolve(config)
    return typing.cast(T, OmegaConf.to_object(config))


def _refuse_unknown(config: DictConfig, schema: type, prefix: str) -> None:
    hints = typing.get_type_hints(schema)
    for key in config:
        name = f"{prefix}{key}"
        if key not in hints:
            raise UserError(f"{name}: no such setting{did_you_mean(name, keys_of(schema, prefix))}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(config._get_node(key), DictConfig):
            _refuse_unknown(config[key], typing.cast(type, hints[key]), f"{name}.")


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """Suggest the nearest choice: by the whole word, then by its last part alone."""
    near = difflib.get_close_matches(word, choices, 1, 0.75)
    if not near:
        tails = {choice.rsplit(".", 1)[-1]: choice for choice in reversed(choices)}
        near = [tails[tail] for tail in difflib.get_close_matches(word.rsplit(".", 1)[-1], list(tails), 1, 0.75)]
    return f"; did you mean {near[0]}?" if near else "; --help lists them all"


def explain(error: Exception, overrides: Sequence[str], keys: Sequence[str]) -> str:
    """Turn an error of Hydra or OmegaConf into one line with key, value and remedy."""
    text = f"{error}\n{error.__cause__ or ''}"
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = found.groups()
        choices = sorted(path.stem for path in (CONF / group).glob("*.yaml")) or sorted(
            path.stem for path in EXPERIMENTS.glob("*.yaml")
        )
        return f"{group}={choice}: no such choice; there are {', '.join(choices)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"{found[1]}: no such setting{did_you_mean(found[1], keys)}"
    if found := re.search(r"Key '([^']+)' not in '|Key '([^']+)' is not in struct", text):
        key = _full_key(text) or found[1] or found[2]
        return f"{key}: no such setting{did_you_mean(key, keys)}"
    if found := re.search(r"[Mm]issing mandatory value: (\S+)", text):
        return f"{found[1]}: is needed; write {found[1]}=..."
    if found := re.search(r"(?:Value '(.*?)'|value).*could not be converted to (\w+)", text):
        return f"{_culprit(text, overrides)}: must be of type {found[2].lower()}"
    if "not a valid bool" in text:
        return f"{_culprit(text, overrides)}: must be true or false"
    if "is not Optional" in text:
        return f"{_culprit(text, overrides)}: needs a value, it cannot be null"
    if "override_grammar" in text or "LexerNoViableAlt" in text:
        bad = _culprit(text, overrides)
        key, _, value = bad.partition("=")
        return f"{bad}: cannot be read; put special characters in quotes of their own: '{key}=\"{value}\"'"
    return f"{_culprit(text, overrides)}: {' '.join(text.split())}"


def _full_key(text: str) -> str | None:
    found = re.search(r"full_key: (\S+)", text)
    return found[1] if found else None


def _culprit(text: str, overrides: Sequence[str]) -> str:
    """Find the override that an error is about."""
    named = [item for item in overrides if item in text]
    key = _full_key(text)
    matching = [item for item in overrides if key and given_keys([item]) == {key}]
    return next(iter([*matching, *named, *([key] if key else []), *overrides]), "configuration")


def hydra_flag(arguments: argparse.Namespace) -> bool:
    """Tell whether a flag asks Hydra to show something (--help, --cfg, --info) instead of running."""
    names = ("help", "hydra_help", "version", "cfg", "info", "shell_completion")
    return any(getattr(arguments, name, None) for name in names)


def run_command(
    command: str, schema: type[T], body: Callable[[T], int], argv: list[str], raw: Sequence[str] = ()
) -> int:
    """Run a command without sweeps: compose, call `body`, return the exit status.

    The values of `raw` keys are taken to the letter: Hydra's grammar never sees them.
    """

    def go() -> int:
        register(schema, command)
        taken, rest = {}, []
        for argument in argv:
            key, sign, value = argument.partition("=")
            if sign and key in raw:
                taken[key] = value
            else:
                rest.append(argument)
        arguments = parse_arguments(rest)
        if hydra_flag(arguments):
            show(command, rest)
            return 0
        if arguments.multirun:
            raise UserError(f"--multirun: {command} has no sweeps; only train has")
        # A placeholder keeps the mandatory keys from being missed; the true value follows untouched.
        config = compose_config(schema, command, [*arguments.overrides, *(f"{key}=raw" for key in taken)])
        return body(dataclasses.replace(typing.cast(Any, config), **taken))

    return guarded(go)


def guarded(action: Callable[[], int]) -> int:
    """Run a command; what the user can put right becomes one line on standard error and status 2."""
    try:
        return action()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, `head` for one, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def show(command: str, argv: list[str]) -> None:
    """Let Hydra answer --help, --cfg and their like."""
    import hydra

    def nothing(config: DictConfig) -> None:
        """Never called: the flags above end before."""

    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"src.{command}", *argv]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(nothing)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, argv, [])) from None
