"""The command line as text: flags, quoting for Hydra's grammar, and Hydra's errors as one line."""

import argparse
import difflib
import re
import shlex
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from src.config.checks import shorten
from src.config.renamed import current_key
from src.config.schema import UserError

PATHS = (
    *("init_from", "output_root", "data.dir", "data.code.repositories"),
    *("tokenizer.path", "tokenizer.compare", "tokenizer.eot"),
)
"""Keys whose values are quoted: paths, and tokens such as `<|endoftext|>`."""
PATH_LISTS = ("data.language.paths", "data.code.paths", "learning_rates")

SINGLE_RUN = "hydra.mode=RUN"
"""Marks a command line as one job of a sweep, even if its experiment sweeps over settings."""
HYDRA_KEYS = ("hydra.mode", "hydra.sweeper.params", "hydra.launcher")
"""Hydra settings that have an effect here."""
UNUSED_FLAGS = {
    **dict.fromkeys(
        ("config_path", "config_name", "config_dir"), "not used here; put your settings in experiments/*.yaml"
    ),
    "experimental_rerun": "not used here; repeat the command itself",
    "shell_completion": "not used here; python -m src --completion bash prints the script of a shell",
}
"""Hydra flags without effect here, and their replacements."""

LEGACY_FLAGS = {
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
"""Options of the original script, and the settings that replace them."""

UNNAMED = ("data.dir", "tracking.group")
"""Keys that a sweep adds to its jobs, which do not name them."""
SHORT_KEYS = {"learning_rate": "lr", "warmup_steps": "warmup", "micro_batch_size": "micro_batch"}
"""Shorter names of settings that are often swept over, by their last part."""

WRONG_VALUES = {
    "not a valid bool": "must be true or false",
    "is not Optional": "needs a value, it cannot be null",
    "Ambiguous value": "several values make a sweep, as only src.train -m does; a list is written {key}=[a,b]",
    "is not a ListConfig": "must be a list, as in {key}=[a,b]",
    "NoneType is not a subclass of": "needs a value, it cannot be null",
    "is not a subclass of": "is a section; set one of its keys, as in {key}.KEY=VALUE",
    "Cannot merge DictConfig with": "is a section; set one of its keys, as in {key}.KEY=VALUE",
    "to Dict[": "is a section; set one of its keys, as in {key}.KEY=VALUE",
    "type hint 'Union[int, str]'": "must be a whole number, or auto",
    "An item is already at": "is there already; leave out the +",
}
"""Messages for wrong overrides, by a part of Hydra's message."""


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Split a command line into Hydra's own flags and overrides, in any order.

    Raises: UserError for an unknown flag, a flag without effect, or an argument that is not key=value.
    """
    for argument in argv:
        name = argument.removeprefix("--").split("=")[0]
        if argument.startswith("--") and name.replace("_", "-") in LEGACY_FLAGS:
            raise UserError(f"{argument}: settings have no dashes; write {LEGACY_FLAGS[name.replace('_', '-')]}")
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        arguments, unknown = parser.parse_known_intermixed_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --help lists the settings") from None
    if unknown:
        raise UserError(f"{unknown[0]}: no such flag; settings have no dashes, as in architecture=moe; see --help")
    for flag, remedy in UNUSED_FLAGS.items():
        if getattr(arguments, flag):
            raise UserError(f"--{flag.replace('_', '-')}: {remedy}")
    if not arguments.cfg and (arguments.package or arguments.resolve):
        raise UserError(f"--{'package' if arguments.package else 'resolve'}: is for --cfg job; leave it out")
    if arguments.run and arguments.multirun:
        raise UserError("--run: contradicts --multirun (-m); leave one out")
    if arguments.help:
        arguments.overrides = [item for item in arguments.overrides if "=" in item]  # the others name settings
    for override in arguments.overrides:
        if not re.match(r"[^~=]+=", override):
            raise UserError(f"{shorten(override)}: settings are written key=value, for example architecture=moe")
        check_hydra_key(override)
        (key,) = given_keys([override])
        if current_key(key) != key:
            raise UserError(f"{shorten(override)}: {no_such_setting(key, [])}")
    return arguments


def check_hydra_key(override: str) -> None:
    """Check that a Hydra setting has an effect here. Raises: UserError."""
    (key,) = given_keys([override])
    if key.startswith("hydra/"):
        raise UserError(f"{override}: is chosen by launcher=NAME; leave it out")
    if not key.startswith("hydra."):
        return
    if key == "hydra.mode" and override != SINGLE_RUN:
        raise UserError(f"{override}: write -m for a sweep, and nothing for a run")
    if not key.startswith(HYDRA_KEYS):
        remedy = "output_root sets the folder of runs" if key.endswith(".dir") else "leave it out"
        raise UserError(f"{override}: has no effect here; {remedy}")


def comma_hint(override: str) -> str:
    """Return a hint how to quote a path with a comma, if the override may be one."""
    key, _, value = override.partition("=")
    if key not in (*PATHS, *PATH_LISTS):
        return ""
    return f"; a path with a comma is quoted twice: {format_argument(key, value, is_list=key in PATH_LISTS)}"


def has_hydra_flag(arguments: argparse.Namespace) -> bool:
    """Return whether a flag makes Hydra print something (--help, --cfg, --info) instead of running."""
    names = ("help", "hydra_help", "version", "cfg", "info")
    return any(getattr(arguments, name, None) for name in names)


def quote_value(value: str) -> str:
    """Quote a value so that Hydra's grammar and interpolation leave it unchanged."""
    escaped = value.replace("'", "\\'").replace("${", "\\${")
    return f"'{escaped}'"


def format_argument(key: str, value: str, is_list: bool = False) -> str:
    """Format `key=value` of a path for copying: the shell and Hydra's grammar leave the path unchanged."""
    plain = not re.search(r"[,'\"\[\]]|^null$|^$", value)
    simple = not re.search(r"[\"\\]|\$\{", value)  # double quotes need no escape within single quotes
    written = value if plain else f'"{value}"' if simple else quote_value(value)
    return shlex.quote(f"{key}=[{written}]" if is_list else f"{key}={written}")


def quote_paths(argv: Sequence[str]) -> list[str]:
    """Quote paths, since `~` and others are Hydra grammar; sweeps over paths and quoted values stay unchanged."""

    def quoted(argument: str) -> str:
        key, _, value = argument.partition("=")
        if key in PATHS and value != "null" and not re.search(r"[,'\"]|^$", value):
            return f"{key}={quote_value(value)}"
        return quote_items(argument) if key in PATH_LISTS else argument

    return [quoted(argument) for argument in argv]


def quote_items(argument: str) -> str:
    """Quote each item of `key=[a,b]`; quoted items and other values stay unchanged."""
    key, _, value = argument.partition("=")
    if found := re.fullmatch(r"\[([^\[\]'\"]+)\]", value):
        return f"{key}=[{','.join(quote_value(item.strip()) for item in found[1].split(','))}]"
    return argument


def given_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys of overrides without operators."""
    return {re.split(r"[=@]", override.lstrip("+~"))[0] for override in overrides}


def no_such_setting(key: str, choices: Sequence[str]) -> str:
    """Say that a key is unknown, and suggest its new name or one of the choices."""
    new = current_key(key)
    return f"is now called {new}" if new != key else f"no such setting{suggest_choices(key, choices)}"


def suggest_choices(word: str, choices: Sequence[str]) -> str:
    """Suggest choices: with the same last part, then those it abbreviates, then the nearest in spelling."""
    section, _, last = word.rpartition(".")
    tails = {choice: choice.rsplit(".", 1)[-1] for choice in [*choices, *(name.split(".")[0] for name in choices)]}
    near = [choice for choice, tail in tails.items() if tail == last and choice.startswith(section)]
    if not near:
        near = [choice for choice, tail in tails.items() if _abbreviates(last, tail) and choice.startswith(section)]
        near = difflib.get_close_matches(word, near, 1, 0) if section else near
    if not near and section:
        near = difflib.get_close_matches(word, [choice for choice in choices if "." in choice], 1, 0.75)
    if not near:
        nearest = difflib.get_close_matches(last, tails.values(), 1, 0.75)
        near = [choice for choice, tail in tails.items() if tail in nearest]
    return f"; did you mean {' or '.join(near)}?" if near else "; --help lists them all"


def _abbreviates(word: str, name: str) -> bool:
    """Return whether `word` abbreviates `name`: some of its words, or their initials."""
    return len(word) > 1 and (f"_{word}" in f"_{name}" or word == "".join(part[:1] for part in name.split("_")))


def explain_hydra_error(error: Exception, overrides: Sequence[str], keys: Sequence[str]) -> str:
    """Turn an error of Hydra or OmegaConf into one line with key, value and remedy."""
    text = f"{error}\n{error.__cause__ or ''}"
    cause = next((one for one in (error.__cause__, error) if isinstance(one, OmegaConfBaseException)), None)
    full_key = cause.full_key if cause else None
    if found := re.search(r"Could not override '([^']+)'", text):
        if found[1] in keys:
            return f"{found[1]}: new names in a mapping need a + before the key, as in +{found[1]}={{name: value}}"
        return f"{found[1]}: {no_such_setting(found[1], [*keys, '+experiment'])}"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and full_key:
        return f"{full_key}: {no_such_setting(full_key, keys)}"
    if isinstance(cause, MissingMandatoryValue):
        return f"{full_key}: is needed; write {full_key}=..."
    if found := re.search(r"(?:Value '(.*?)'|value).*could not be converted to (\w+)", text):
        return f"{_culprit(text, overrides, full_key)}: must be of type {found[2].lower()}"
    for fragment, remedy in WRONG_VALUES.items():
        if fragment in text:
            culprit = _culprit(text, overrides, full_key)
            hint = comma_hint(culprit) if fragment == "Ambiguous value" else ""
            return f"{culprit}: {remedy.format(key=culprit.partition('=')[0])}{hint}"
    if "override_grammar" in text or "LexerNoViableAlt" in text:
        return (
            f"{_unreadable(overrides)}: cannot be read; write key=value without spaces, and a value with special "
            "characters in quotes of its own, as in 'key=\"a, b\"'"
        )
    return f"{_culprit(text, overrides, full_key)}: is invalid ({' '.join(text.split()) or type(error).__name__})"


def _culprit(text: str, overrides: Sequence[str], key: str | None) -> str:
    """Return the override that caused an error at a key."""
    named = [item for item in overrides if item in text]
    overrides = [re.sub(r"\\([^\w\s'\"\\])", r"\1", item) for item in overrides]  # undo Hydra's escapes
    matching = [item for item in overrides if key and given_keys([item]) == {key}]
    return shorten(next(iter([*matching, *named, *([key] if key else []), " ".join(overrides)])) or "configuration")


def _unreadable(overrides: Sequence[str]) -> str:
    """Return the override that Hydra's grammar rejects; its errors do not always name it."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException:
            return shorten(override)
    return shorten(" ".join(overrides))


def varying_overrides(jobs: list[list[str]]) -> list[str]:
    """Return for each job the overrides that differ between jobs."""
    common = set[str].intersection(*map(set, jobs))
    return [" ".join(item for item in job if item not in common) or " ".join(job) for job in jobs]


def job_names(architectures: Sequence[str], jobs: list[list[str]]) -> list[str]:
    """Name each job of a sweep by its architecture, seed and what else varies: `dense s0 lr=0.001`."""
    common = set[str].intersection(*map(set, jobs))
    names: list[str] = []
    for architecture, job in zip(architectures, jobs, strict=True):
        parts = [architecture]
        for item in job:
            key, _, value = item.partition("=")
            if key == "seed":
                parts.append(f"s{value}")
            elif item not in common and key != "architecture" and key not in UNNAMED:
                last = key.rpartition(".")[2]
                parts.append(value if "." not in key else f"{SHORT_KEYS.get(last, last)}={value}")
        names.append(" ".join(parts))
    repeated = {name for name in names if names.count(name) > 1}
    return [varied if name in repeated else name for name, varied in zip(names, varying_overrides(jobs), strict=True)]
