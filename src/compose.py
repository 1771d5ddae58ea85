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
PATHS = ("init_from", "output_root", "data.dir")
PATH_LISTS = ("data.language.paths", "data.code.paths")
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

WRONG_VALUES = {
    "not a valid bool": "must be true or false",
    "is not Optional": "needs a value, it cannot be null",
    "Ambiguous value": "several values make a sweep, as only src.train -m does; a list is written {key}=[a,b]",
    "is not a ListConfig": "must be a list, as in {key}=[a,b]",
    "is not a subclass of": "is a section; set one of its keys, as in {key}.KEY=VALUE",
    "An item is already at": "is there already; leave out the +",
}
"""What is wrong with an override, by a part of what Hydra says of it."""


def register(schema: type, command: str) -> None:
    """Make the schema of a command and every experiments/*.yaml known to Hydra, from any working directory."""
    store = ConfigStore.instance()
    store.store(name=f"{command}_schema", node=schema)
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        store.store(group="experiment", name=path.stem, node=OmegaConf.load(path), package="_global_")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Split a command line into Hydra's own flags and overrides, in any order.

    Raises UserError for a flag that Hydra lacks or that would change nothing, and for what is not key=value.
    """
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--") and name.replace("_", "-") in FLAGS_OF_THE_ORIGINAL:
            raise UserError(
                f"{argument}: settings have no dashes; write {FLAGS_OF_THE_ORIGINAL[name.replace('_', '-')]}"
            )
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        arguments, unknown = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --help lists the settings") from None
    if unknown:
        raise UserError(f"{unknown[0]}: no such flag; settings have no dashes, as in architecture=moe; see --help")
    for flag in ("config_path", "config_name", "config_dir", "experimental_rerun"):
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')}: not used here; put your settings in experiments/*.yaml")
    for override in arguments.overrides:
        if not re.match(r"[^~=]+=", override):
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


def quote_paths(argv: Sequence[str]) -> list[str]:
    """Quote paths, since `~` and much else are grammar to Hydra; the lists of a sweep and hand-made quotes stay."""

    def quoted(argument: str) -> str:
        key, _, value = argument.partition("=")
        if key in PATHS and value != "null" and not re.search(r"[,'\"]|^$", value):
            return f"{key}={quote(value)}"
        if key in PATH_LISTS and (found := re.fullmatch(r"\[([^\[\]'\"]+)\]", value)):
            return f"{key}=[{','.join(quote(path.strip()) for path in found[1].split(','))}]"
        return argument

    return [quoted(argument) for argument in argv]


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
    """Build a typed configuration from plain values; `${` in a text is no interpolation any more."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return value.replace("${", "\\${") if isinstance(value, str) else value

    return typing.cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain(values))))


def _to_object(config: DictConfig, schema: type[T]) -> T:
    _refuse_unknown(config, schema, "")
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
    """Suggest the nearest choices: by the whole of a dotted word, then all that share the nearest last part."""
    dotted = [choice for choice in choices if "." in choice]
    near = difflib.get_close_matches(word, dotted, 1, 0.75) if "." in word else []
    if not near:
        tails = [choice.rsplit(".", 1)[-1] for choice in choices]
        nearest = difflib.get_close_matches(word.rsplit(".", 1)[-1], tails, 1, 0.75)
        near = [choice for choice, tail in zip(choices, tails, strict=True) if tail in nearest]
    return f"; did you mean {' or '.join(near)}?" if near else "; --help lists them all"


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
        return f"{found[1]}: no such setting{did_you_mean(found[1], [*keys, '+experiment'])}"
    if found := re.search(r"Key '([^']+)' not in '|Key '([^']+)' is not in struct", text):
        key = _full_key(text) or found[1] or found[2]
        return f"{key}: no such setting{did_you_mean(key, keys)}"
    if found := re.search(r"[Mm]issing mandatory value: (\S+)", text):
        return f"{found[1]}: is needed; write {found[1]}=..."
    if found := re.search(r"(?:Value '(.*?)'|value).*could not be converted to (\w+)", text):
        return f"{_culprit(text, overrides)}: must be of type {found[2].lower()}"
    for fragment, remedy in WRONG_VALUES.items():
        if fragment in text:
            culprit = _culprit(text, overrides)
            return f"{culprit}: {remedy.format(key=culprit.partition('=')[0])}"
    if "override_grammar" in text or "LexerNoViableAlt" in text:
        return (
            f"{_unreadable(overrides)}: cannot be read; write key=value without spaces, and a value with special "
            "characters in quotes of its own, as in 'key=\"a, b\"'"
        )
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


def _unreadable(overrides: Sequence[str]) -> str:
    """Find the override that is no Hydra grammar; its errors do not always tell."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException:
            return override
    return " ".join(overrides)


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
            show(command, rest, arguments.overrides)
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


def show(command: str, argv: list[str], overrides: list[str]) -> None:
    """Let Hydra answer --help, --cfg and their like; it wants the overrides in one piece."""
    import hydra

    def nothing(config: DictConfig) -> None:
        """Never called: the flags above end before."""

    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [f"src.{command}", *overrides, *(item for item in argv if item not in overrides)]
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(nothing)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, argv, [])) from None
