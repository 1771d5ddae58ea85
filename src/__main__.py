"""`python -m src`: what commands there are, by the first line of each one's YAML."""

import sys

from src import __version__
from src.cli.compose import report_error, run_cli
from src.config.schema import CONF

COMMANDS = ("prepare", "train", "tune", "report", "evaluate", "generate", "export", "estimate", "benchmark", "doctor")
"""In the order in which they are met."""


def main(argv: list[str]) -> int:
    """Print a line or two for each command: asked for with --help, or on standard error where none was chosen."""
    if argv in (["--version"], ["-V"]):
        print(f"Advanced Code Model {__version__}")
        return 0
    is_asked = argv in (["--help"], ["-h"])
    out = sys.stdout if is_asked else sys.stderr
    if not is_asked:
        wrong = f"{argv[0]}: no such command; " if argv else ""
        report_error(f"{wrong}choose a command; --help behind it lists its settings")
        print(file=out)
    for command in COMMANDS:
        first = (CONF / f"{command}.yaml").read_text(encoding="utf-8").splitlines()[0]
        about, _, example = first.removeprefix("# ").partition(":  ")
        print(f"{example}\n    {about}", file=out)
    return 0 if is_asked else 2


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
