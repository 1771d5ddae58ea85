"""`python -m src.tune architecture=dense,mamba size=nano`: the learning rate of each, found with equal budgets."""

import sys

from src.cli.command_line import hydra_flag, parse_arguments, quote_paths
from src.cli.compose import guarded, register, show
from src.config.schema import TrainConfig, TuneConfig
from src.runtime.distributed import refuse_torchrun


def main(argv: list[str]) -> int:
    """Search, and return the exit status: 0 found, 1 a trial failed, 2 wrong input, 128 + n stopped by signal n."""
    argv = quote_paths(argv)
    register(TuneConfig, "tune")
    register(TrainConfig, "train")
    arguments = parse_arguments(argv)
    if hydra_flag(arguments):
        show("tune", argv, arguments.overrides)
        return 0
    refuse_torchrun("each trial has a process of its own")
    from src.sweep.learning_rate_search import tune

    return tune(arguments.overrides)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
