"""The last lines of a command: what can be done with its result, to be copied into a shell.

They go to standard error, so that the last line of the output is still the one that names what was written.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from src.cli.command_line import PATHS, format_argument, given_keys
from src.config.formatting import show_time


def print_next(commands: Sequence[str], seconds: float | None = None) -> None:
    """Print commands that can follow. seconds: how long the first one will take, if that is known."""
    cost = "" if seconds is None else f" (about {show_time(seconds)})"
    for index, command in enumerate(commands):
        print(f"{f'Next{cost}:' if not index else '     '} {command}", file=sys.stderr)


def command_of(name: str, *arguments: str) -> str:
    """Return the command line of a command; each argument is quoted for the shell already."""
    return " ".join([f"python -m src.{name}", *arguments])


def export_command(run: str | Path, name: str) -> str:
    """Return the command that exports a run into a folder of this name."""
    out = raw_argument("out", Path("exports") / name)
    return command_of("export", "format=huggingface", raw_argument("run", run), out)


def raw_argument(key: str, value: str | Path) -> str:
    """Write `key=value` of a setting that bypasses Hydra's grammar, such as `run` and `prompt`."""
    return f"{key}={shlex.quote(str(value))}"


def written_overrides(overrides: Sequence[str], without: Sequence[str]) -> list[str]:
    """Write overrides for the shell. without: keys, or sections ending with a dot, to leave out."""
    found: list[str] = []
    for item in overrides:
        (key,) = given_keys([item])
        if any(key == name or (name.endswith(".") and key.startswith(name)) for name in without):
            continue
        _, _, value = item.partition("=")
        inner = value[1:-1]  # the quotes of `quote_paths` are not needed in most cases
        is_quoted = key in PATHS and re.fullmatch(r"'[^'\\]*'", value)
        found.append(format_argument(key, inner) if is_quoted else shlex.quote(item))
    return found
