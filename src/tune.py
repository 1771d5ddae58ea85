"""`python -m src.tune architecture=dense,mamba size=nano`: search learning rates with equal budgets."""

import sys

from src.cli.command import run_cli
from src.cli.command_line import has_hydra_flag, parse_arguments, quote_paths
from src.cli.compose import register_schema
from src.cli.data_path import expand_data_path
from src.cli.help import show_hydra_help
from src.config.schema import TrainConfig, TuneConfig
from src.runtime.distributed import reject_torchrun


def main(argv: list[str]) -> int:
    """Search, and return the exit status: 0 found, 1 a trial failed, 2 invalid input, 128 + n stopped by signal n."""
    argv = expand_data_path(quote_paths(argv))
    register_schema(TuneConfig, "tune")
    register_schema(TrainConfig, "train")
    arguments = parse_arguments(argv)
    if has_hydra_flag(arguments):
        show_hydra_help("tune", argv, arguments.overrides)
        return 0
    reject_torchrun("a search starts the processes of each trial (launcher.processes_per_job=2)")
    from src.sweep.learning_rate_search import plan_searches, tune

    config, searches = plan_searches(arguments.overrides)
    if config.dry_run:
        from src.sweep.search_preview import describe_searches

        print(describe_searches(config.tune, searches))
        return 0
    return tune(config.tune, searches, arguments.overrides)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
