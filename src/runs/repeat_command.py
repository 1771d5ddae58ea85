"""The command lines of a run: one finds it again, to resume it; the other repeats it elsewhere, for the report.

A run's name is a hash of its settings as they were given, before `auto` was resolved, and config.yaml has the resolved
ones. So each of the settings that a run resolves is tried as it is and as `auto`, until the hash is that of the run.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from src.cli.command_line import PATH_LISTS, PATHS, format_argument, quote_value
from src.cli.compose import compose_config, read_run_config, register_schema
from src.config.comparability import flatten_settings
from src.config.schema import CONF, RuntimeConfig, TrainConfig, UserError
from src.data.dataset import Data, PreparedData
from src.runs.run_id import run_name
from src.runs.summary import read_summary

GROUPS = (
    "architecture",
    "size",
    "recipe",
    "stage",
    "data",
    "tokenizer",
    "optimizer",
    "schedule",
    "runtime",
    "tracking",
)
"""Sections whose `name` is that of a file of conf/, in the order of a command line."""
OUTSIDE = (
    *("output_root", "sweep_name", "sweep", "launcher", "tracking", "verdict", "seeds", "rerun", "dry_run"),
    *("training.measured_steps", "schedule.searched", "tokenizer.kind", "data.name", "optimizer.search_differences"),
    "optimizer.search",
    *(f"{group}.name" for group in GROUPS),
)
"""Settings and sections that do not belong to the command line of one run, or that the run finds itself."""
SEARCHED = ("optimizer.learning_rate", "schedule.warmup_steps")
"""Settings that `learning_rates` brings."""


def chosen_groups(config: TrainConfig, sections: tuple[str, ...] = GROUPS) -> list[str]:
    """Return the choices of groups, such as `architecture=moe`, that are not the default."""
    register_schema(TrainConfig, "train")
    default = compose_config(TrainConfig, "train", [])
    names = {group: getattr(config, group).name for group in sections}
    return [
        f"{group}={name}"
        for group, name in names.items()
        if name != getattr(default, group).name and re.fullmatch(r"\w+", name) and _is_choice(group, name)
    ]


def _is_choice(group: str, name: str) -> bool:
    return (CONF / group / f"{name}.yaml").is_file()


def default_settings(choices: list[str]) -> dict[str, Any]:
    """Return the flat settings that the choices of groups give."""
    register_schema(TrainConfig, "train")
    return flatten_settings(asdict(compose_config(TrainConfig, "train", choices)))


def repeat_command(folder: Path) -> str | None:
    """Return the command that finds a run again; None if its settings do not give its name.

    That is so if the run comes from elsewhere or from another version, or if the run that it started from is gone.
    Raises: UserError if the run's config.yaml or summary.json is damaged.
    """
    config, summary = read_run_config(folder / "config.yaml"), read_summary(folder)
    if summary is None or folder.parent.name != "runs":
        return None
    fingerprint, weights, source = str(summary["contract"].get("data_hash")), None, None
    if config.init_from is not None:
        from src.training.checkpoint import find_checkpoint  # imports torch

        with suppress(UserError):
            info = find_checkpoint(Path(config.init_from).expanduser().resolve(), "last")
            weights, source = (
                info.weights_sha256,
                read_run_config(info.folder.parents[2] / "config.yaml"),
            )
        if source is None:
            return None
    for candidate in _unresolved(config):
        if run_name(candidate, fingerprint, weights) == folder.name:
            break
    else:
        return None
    overrides = _overrides(candidate, source)
    if source is None and not config.learning_rates:
        with suppress(UserError):
            given = compose_config(TrainConfig, "train", [_unquoted(item) for item in overrides])
            if run_name(replace(given, optimizer=candidate.optimizer), fingerprint, None) != folder.name:
                return None
    from src.runs.lookup import root_of  # imports what reports need, which takes as long as starting a run

    root = root_of(folder)
    place = [] if str(root) == TrainConfig.output_root else [format_argument("output_root", str(root))]
    return " ".join(["python -m src.train", *overrides, *place])


def _unquoted(argument: str) -> str:
    """Return an argument as the shell passes it on."""
    (item,) = shlex.split(argument)
    key, _, value = item.partition("=")
    return f"{key}={quote_value(value)}" if key in PATHS and not value.startswith(("'", '"')) else item


def _unresolved(config: TrainConfig) -> Iterator[TrainConfig]:
    """Yield the configuration with each of the settings that a run resolves as it is, and as it may have been given."""
    runtime, training = config.runtime, config.training
    for device, precision, threads, attention, kernels, compile_, micro in product(
        dict.fromkeys([runtime.device, "auto"]),
        dict.fromkeys([runtime.precision, "auto"]),
        dict.fromkeys([runtime.threads, None]),
        dict.fromkeys([runtime.attention, "auto"]),
        dict.fromkeys([runtime.kernels, "auto"]),
        dict.fromkeys([runtime.compile, True]),
        dict.fromkeys([training.micro_batch_size, "auto"]),
    ):
        given = replace(
            runtime,
            device=device,
            precision=precision,
            threads=threads,
            attention=attention,
            kernels=kernels,
            compile=compile_,
            parallel=RuntimeConfig.parallel,
        )
        yield replace(config, runtime=given, training=replace(training, micro_batch_size=micro, measured_steps=None))


def explicit_command(config: TrainConfig, data: Data, init_run: Path | None, n_processes: int) -> str:
    """Return the command that gives the same weights elsewhere: searched rates and resolved settings as values.

    The text is given by the settings that it was prepared with, unless its tokenizer is external. init_run: the run
    that this one started from.
    """
    settings, text = data.manifest["settings"] if isinstance(data, PreparedData) else None, None
    if settings is not None and settings["tokenizer"].get("path") is None:
        text = flatten_settings({name: settings[name] for name in ("data", "tokenizer")})
        name = text.get("tokenizer.name", config.tokenizer.name)
        config = replace(config, tokenizer=replace(config.tokenizer, name=name))
    # Kernels are chosen when the model is there, after this command is written, so a resumed run alone knows them.
    kernels = {"attention": RuntimeConfig.attention, "kernels": RuntimeConfig.kernels}
    parallel = RuntimeConfig.parallel if n_processes == 1 else config.runtime.parallel
    runtime = replace(config.runtime, **kernels, parallel=parallel)
    config = replace(config, learning_rates=[], runtime=runtime)
    source = read_run_config(init_run / "config.yaml") if init_run else None
    overrides = _overrides(config, source, text)
    program = "python" if n_processes == 1 else f"torchrun --nproc-per-node={n_processes}"
    return " ".join([program, "-m src.train", *overrides])


def _overrides(config: TrainConfig, source: TrainConfig | None, text: dict[str, Any] | None = None) -> list[str]:
    """Return the arguments of the command line, quoted for the shell.

    source: settings of the run that this one started from, most of which it inherits. text: settings of the data and
    the tokenizer, instead of the prepared folder.
    """
    inherited: tuple[str, ...] = ()
    if source is not None:
        from src.runs.warm_start import FIXED, INHERITED  # imports torch

        inherited = (*FIXED, *INHERITED)
    is_prepared = text is None and config.data.dir is not None and Path(config.data.dir).is_dir()
    left_out = {*OUTSIDE, *(SEARCHED if config.learning_rates else ())}
    if is_prepared:
        left_out |= {"data", "tokenizer"}
    unneeded = {*inherited, *(("data", "tokenizer") if is_prepared else ()), *(("tracking",) if text else ())}
    groups = tuple(name for name in GROUPS if name not in unneeded)
    choices = chosen_groups(config, groups)
    default, values = default_settings(choices), flatten_settings(asdict(config))
    if text is not None:
        values = {key: value for key, value in values.items() if key.split(".")[0] not in ("data", "tokenizer")} | text
    if source is not None:
        theirs = flatten_settings(asdict(source))
        default |= {key: value for key, value in theirs.items() if key.split(".")[0] in inherited}
    arguments = list(choices)
    for key, value in values.items():
        sections = [".".join(key.split(".")[:end]) for end in range(1, len(key.split(".")) + 1)]
        if (key in default and default[key] == value) or left_out.intersection(sections):
            continue
        arguments.append(_format_override(key, value, is_new=key not in default))
    is_same_text = source is not None and source.data.dir == config.data.dir
    if is_prepared and not is_same_text:
        arguments.append(format_argument("data.dir", str(config.data.dir)))
    return arguments


def _format_override(key: str, value: Any, is_new: bool) -> str:
    if key in PATHS and isinstance(value, str):
        return format_argument(key, value)
    if key in PATH_LISTS and all(re.fullmatch(r"[\w./~-]+", path) for path in value):
        return shlex.quote(f"{key}=[{','.join(value)}]")
    return shlex.quote(f"{'+' * is_new}{key}={_format_value(value)}")


def _format_value(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_format_value, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str):
        is_word = re.fullmatch(r"[A-Za-z]\w*", value) and value.lower() not in ("null", "true", "false", "nan", "inf")
        return value if is_word else quote_value(value)
    return repr(value)
