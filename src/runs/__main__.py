"""`python -m src.runs`: list, compare and remove the runs of an output root."""

import sys

from src.cli.command import run_cli, run_command
from src.cli.command_line import quote_items
from src.config.schema import RunsConfig

RAW = ("output_root", "sort", "show", "best")
LISTS = ("filter", "diff", "remove")


def manage(config: RunsConfig) -> int:
    """Do what the settings ask for."""
    from src.runs.manage import manage_runs

    return manage_runs(config)


def quote_lists(argv: list[str]) -> list[str]:
    """Quote the items of lists, which Hydra's grammar would change."""
    return [quote_items(item) if item.partition("=")[0] in LISTS else item for item in argv]


def main(argv: list[str]) -> int:
    return run_command("runs", RunsConfig, manage, quote_lists(argv), RAW)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
