"""The command line as text: its flags, quoting for Hydra's grammar, and what Hydra says of a mistake, in one line."""

import argparse
import difflib
import re
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from src.config import CONF, EXPERIMENTS, UserError

PATHS = (
    *("init_from", "output_root", "data.dir", "data.code.repositories"),
    *("tokenizer.path", "tokenizer.compare", "tokenizer.eot"),
)
"""And the name of a token, such as `<|endoftext|>`, which is no less grammar."""
PATH_LISTS = ("data.language.paths", "data.code.paths", "learning_rates")

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
    "type hint 'Union[int, str]'": "must be a whole number, or auto",
    "An item is already at": "is there already; leave out the +",
}
"""What is wrong with an override, by a part of what Hydra says of it."""


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


def hydra_flag(arguments: argparse.Namespace) -> bool:
    """Tell whether a flag asks Hydra to show something (--help, --cfg, --info) instead of running."""
    names = ("help", "hydra_help", "version", "cfg", "info", "shell_completion")
    return any(getattr(arguments, name, None) for name in names)


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


def did_you_mean(word: str, choices: Sequence[str]) -> str:
    """Suggest choices: what has this last part, then what it shortens, then the nearest in spelling."""
    section, _, last = word.rpartition(".")
    tails = {choice: choice.rsplit(".", 1)[-1] for choice in [*choices, *(name.split(".")[0] for name in choices)]}
    near = [choice for choice, tail in tails.items() if tail == last and choice.startswith(section)]
    if not near:
        near = [choice for choice, tail in tails.items() if _shortens(last, tail) and choice.startswith(section)]
        near = difflib.get_close_matches(word, near, 1, 0) if section else near
    if not near and section:
        near = difflib.get_close_matches(word, [choice for choice in choices if "." in choice], 1, 0.75)
    if not near:
        nearest = difflib.get_close_matches(last, tails.values(), 1, 0.75)
        near = [choice for choice, tail in tails.items() if tail in nearest]
    return f"; did you mean {' or '.join(near)}?" if near else "; --help lists them all"


def _shortens(word: str, name: str) -> bool:
    """Tell whether `word` is how people write `name` when in a hurry: some of its words, or their initials."""
    return len(word) > 1 and (f"_{word}" in f"_{name}" or word == "".join(part[:1] for part in name.split("_")))


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


def varying(jobs: list[list[str]]) -> list[str]:
    """Write each job by the overrides that not all of them have."""
    common = set[str].intersection(*map(set, jobs))
    return [" ".join(item for item in job if item not in common) or " ".join(job) for job in jobs]
