"""`python -m src`: list the commands, by the first line of their YAML files."""

import sys

from src import __version__
from src.cli.compose import report_error, run_cli
from src.config.schema import CONF

COMMANDS = (
    *("demo", "prepare", "train", "tune", "report", "runs", "evaluate", "generate", "export", "estimate", "benchmark"),
    "doctor",
)
"""In the order of use."""


def main(argv: list[str]) -> int:
    """List the commands: for --help, or on standard error if none was chosen."""
    if argv in (["--version"], ["-V"]):
        print(f"Advanced Code Model {__version__}")
        return 0
    is_help = argv in (["--help"], ["-h"])
    out = sys.stdout if is_help else sys.stderr
    if not is_help:
        unknown = f"{argv[0]}: no such command; " if argv else ""
        report_error(f"{unknown}choose a command; COMMAND --help lists its settings")
        print(file=out)
    for command in COMMANDS:
        first = (CONF / f"{command}.yaml").read_text(encoding="utf-8").splitlines()[0]
        about, _, example = first.removeprefix("# ").partition(":  ")
        print(f"{example}\n    {about}", file=out)
    return 0 if is_help else 2


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
