"""`python -m src`: list the commands, by the first line of their YAML files."""

import sys
from contextlib import suppress

from src import __version__
from src.config.schema import CONF

COMMANDS = (
    *("demo", "prepare", "train", "tune", "report", "runs", "evaluate", "generate", "chat", "serve", "export"),
    *("estimate", "advise", "benchmark", "validate", "doctor"),
)
"""In the order of use."""


def main(argv: list[str]) -> int:
    """List the commands: for --help, or on standard error if none was chosen."""
    if argv in (["--version"], ["-V"]):
        print(f"Advanced Code Model {__version__}")
        return 0
    if argv[:1] == ["--completion"]:
        return print_completion_script(argv[1:])
    from src.cli.command import report_error  # imports Hydra

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
    if is_help:
        print("source <(python -m src --completion bash)\n    Completion of settings and values: bash, zsh or fish")
    return 0 if is_help else 2


def print_completion_script(shells: list[str]) -> int:
    """Print the completion script of a shell."""
    from src.cli.completion import SHELLS, script

    if len(shells) != 1 or shells[0] not in SHELLS:
        from src.cli.command import report_error

        report_error(f"--completion {' '.join(shells)}".rstrip() + f": name one shell; there are {', '.join(SHELLS)}")
        return 2
    print(script(shells[0]), end="")
    return 0


def print_candidates(line: str) -> int:
    """Print what can follow a command line, for the completion scripts; an error must not disturb the prompt."""
    with suppress(Exception):
        from src.cli.completion import complete

        print("\n".join(complete(line, COMMANDS)))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--complete"]:
        sys.exit(print_candidates(" ".join(sys.argv[2:])))
    from src.cli.command import run_cli

    sys.exit(run_cli(lambda: main(sys.argv[1:])))
